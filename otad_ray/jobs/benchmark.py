"""Measure how fast integration, search, the label job and its memory are, as ratios taken within one run.

python jobs/benchmark.py                      # mnist
python jobs/benchmark.py digits --parts search labels
python jobs/benchmark.py cifar10_vit --parts transformer
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otad_ray.artifacts import write_json
from otad_ray.benchmarks import (
    Measurement,
    best_of,
    flat_search_seconds,
    machine,
    measure_cip,
    measure_search,
    measure_streaming,
    private_bytes,
    threads,
)
from otad_ray.engine.capacity import check_num_actors
from otad_ray.engine.ray_session import num_cores, ray_session
from otad_ray.engine.run import run_unfinished
from otad_ray.engine.shards import Shard, ShardedDirectory, write_shard
from otad_ray.errors import InputError
from otad_ray.jobs.benchmark_robustness import measure_attacks, measure_certification
from otad_ray.jobs.benchmark_transformer import check_transformer, measure_table_ix
from otad_ray.memory import NeighborMemory
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.labels import LabelTask
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace
from otad_ray.tracking import RunRecord, redacted

_CIP_ROWS = 1024
# Points of the transformer in the authors' code: 65 tokens of 384. A batch of them is 2 GB.
_LARGE_DIMENSION = 24960
_LARGE_ROWS = 256
_QUERIES = 2048
_MEMORY_SHARDS = 4
_MEMORY_GROWTH = 10

# Goals, as ratios of which more is better.
_CIP_GOAL, _LARGE_CIP_GOAL, _SEARCH_GOAL, _LABELS_GOAL = 500.0, 2000.0, 3.0, 1.0
_RAY_GOAL, _PRIVATE_GOAL = 1 / 1.15, 0.95


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ActorJobConfig):
    """Options of the benchmark.

    Attributes:
        parts: which measurements: any of cip, search, labels, memory, certification, attacks; besides transformer,
            Table IX of the paper for a preset with such a backbone, and streaming, a memory of 5 GB.
    """

    parts: tuple[str, ...] = ("cip", "search", "labels", "memory", "certification", "attacks")


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure, print a table, log it; what the last line of the job's output says."""
    for part in config.parts:
        if part not in _PARTS:
            raise InputError(f"unknown part {part!r}; known: {', '.join(_PARTS)}")
    if "transformer" in config.parts:
        check_transformer(config.preset)
    check_num_actors(config.pool, config.address)
    workspace = Workspace(config)
    measurements = []
    for part in config.parts:
        for measurement in _PARTS[part](config, workspace):
            print(_line(measurement), file=sys.stderr, flush=True)
            measurements.append(measurement)
    described = machine()
    result = {
        "machine": described,
        "preset": config.preset.name,
        "measurements": [asdict(item) for item in measurements],
    }
    # Times are never the same again: every benchmark is a result of its own.
    path = workspace.directory("benchmarks", json.dumps(result)) / "benchmark.json"
    write_json(path, result)
    record = RunRecord(
        experiment=config.preset.name,
        kind="benchmark",
        name=f"benchmark {'+'.join(config.parts)}",
        job="benchmark",
        result={"directory": path.parent},
        params={"parts": ",".join(config.parts), "data_set": config.preset.data_set, **described},
        metrics={f"ratio_{item.name}": item.ratio for item in measurements}
        | {f"ours_{item.name}": item.ours for item in measurements}
        | {f"reference_{item.name}": item.reference for item in measurements},
        artifacts=(path,),
        tags={"otad.directory": str(path.parent)},
    )
    return {**result, "run_id": workspace.track(record), "tracking_uri": redacted(workspace.tracking_uri)}


def _line(item: Measurement) -> str:
    goal = "" if item.goal is None else f"goal {item.goal:.4g}: {'met' if item.met else 'MISSED'}"
    return (
        f"{item.name:<22} {item.ours:10.4g} against {item.reference:10.4g} {item.unit:<9} "
        f"{item.ratio:8.4g} x  {goal:<18} {item.note}"
    )


def _measure_cip(config: BenchmarkConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Rows of the memory with their leave-one-out neighbors, as they are and isometrically embedded."""
    memory = ensure_memory(workspace, search=config.search)
    integration = config.preset.integration
    rows = torch.arange(min(_CIP_ROWS, len(memory)))
    near, _ = memory.search(memory.keys[rows], integration.neighbors, memory.ids[rows])
    query, points, features = memory.points[rows], memory.points[near], memory.features[near]
    if memory.point_space is not None:
        # References know no smaller space.
        query, points = memory.point_space.points(query), memory.point_space.points(points)
    yield from measure_cip(query, points, features, integration.regularity, goal=_CIP_GOAL)
    embedding = _isometry(query.shape[1], _LARGE_DIMENSION)
    query, points, features = (tensor[:_LARGE_ROWS] @ embedding for tensor in (query, points, features))
    yield from measure_cip(query, points, features, integration.regularity, goal=_LARGE_CIP_GOAL)


def _isometry(dimension: int, larger: int) -> Tensor:
    """Orthonormal rows (dimension, larger)."""
    directions = torch.randn(larger, dimension, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(directions).Q.T.contiguous()


def _measure_search(config: BenchmarkConfig, workspace: Workspace) -> Iterator[Measurement]:
    memory = ensure_memory(workspace, search=config.search)
    queries = memory.keys[:: max(1, len(memory) // _QUERIES)][:_QUERIES].contiguous()
    for num_threads in sorted({1, num_cores()}):
        yield measure_search(
            memory, queries, config.preset.integration.neighbors + 1, num_threads=num_threads, goal=_SEARCH_GOAL
        )


def _measure_labels(config: BenchmarkConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Rates of the label job by number of actors, of a plain loop, and of `IndexFlatL2.search` alone."""
    memory = ensure_memory(workspace, search=config.search)
    neighbors, cores = config.preset.integration.neighbors, num_cores()
    task = LabelTask(str(memory.directory), config.search, config.preset.integration, dense=False)
    with threads(1):
        plain = _plain_rate(config, memory, task)
    with ray_session(config.address):
        most = config.num_actors or cores
        rates = {count: _job_rate(config, memory, task, count) for count in sorted({1, most})}
    with threads(cores):
        flat = len(memory) / flat_search_seconds(memory, neighbors + 1)
    rows = f"{len(memory)} rows"
    yield _rate("labels_against_flat", rates[most], flat, _LABELS_GOAL, f"{rows}, against IndexFlatL2, {cores} threads")
    yield _rate("labels_against_loop", rates[1], plain, _RAY_GOAL, f"{rows}, one actor, against a plain loop")
    if most > 1:
        yield _rate("labels_by_actors", rates[most], rates[1], None, f"{rows}, {most} actors against one")


def _rate(name: str, ours: float, reference: float, goal: float | None, note: str) -> Measurement:
    return Measurement(
        name=name, unit="rows/s", ours=ours, reference=reference, ratio=ours / reference, goal=goal, note=note
    )


def _plain_rate(config: BenchmarkConfig, memory: NeighborMemory, task: LabelTask) -> float:
    """Rows a second of the actor's own functions in a loop, files written."""
    with _label_directory(config, memory) as output:
        compute = task.open()

        def label_all() -> None:
            for shard in output.shards:
                write_shard(shard.path(output.directory), compute(shard.positions))

        seconds, _ = best_of(1, label_all)
    return len(memory) / seconds


def _job_rate(config: BenchmarkConfig, memory: NeighborMemory, task: LabelTask, num_actors: int) -> float:
    """Rows a second of the label job after start-up."""
    with _label_directory(config, memory) as output:
        return run_unfinished([(output, task)], replace(config, num_actors=num_actors)).rows_per_second


@contextmanager
def _label_directory(config: BenchmarkConfig, memory: NeighborMemory) -> Iterator[ShardedDirectory]:
    """A directory of labels that is removed again, beside the memory: on a cluster actors share that disk."""
    with tempfile.TemporaryDirectory(dir=memory.directory.parent, prefix=".benchmark-") as directory:
        yield ShardedDirectory.start(
            Path(directory), kind="labels", identity={}, rows=len(memory), rows_per_shard=config.rows_per_shard
        )


def _measure_memory(config: BenchmarkConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Private memory of a process that labels rows as an actor does, for a tenth of the memory and the whole."""
    memory = ensure_memory(workspace, search=config.search)
    tenth = slice(0, len(memory) // _MEMORY_GROWTH)
    with tempfile.TemporaryDirectory(dir=memory.directory.parent, prefix=".benchmark-") as directory:
        keys = None if memory.keys is memory.points else [memory.keys[tenth]]
        arrays = (memory.points, memory.features, memory.labels, memory.ids)
        small = NeighborMemory.build(
            Path(directory) / "memory", keys, *([array[tenth]] for array in arrays), point_space=memory.point_space
        )
        rows = min(config.rows_per_shard, len(small) // _MEMORY_SHARDS)
        private = [_private_bytes(config, part, rows) / 2**20 for part in (small, memory)]
    yield Measurement(
        name="private_memory",
        unit="MiB/actor",
        ours=private[1],
        reference=private[0],
        ratio=private[0] / private[1],
        goal=_PRIVATE_GOAL,
        note=f"{len(memory)} rows against {len(small)}; the mapped files are {_mapped_bytes(memory) / 2**20:.0f} MiB",
    )


def _mapped_bytes(memory: NeighborMemory) -> int:
    return sum(path.stat().st_size for path in memory.directory.glob("*.npy"))


def _private_bytes(config: BenchmarkConfig, memory: NeighborMemory, rows: int) -> int:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    task = LabelTask(str(memory.directory), config.search, config.preset.integration, dense=False)
    process = context.Process(target=_label_and_tell, args=(task, rows, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _label_and_tell(task: LabelTask, rows: int, sender: Connection) -> None:
    with threads(1):
        compute = task.open()
        for index in range(_MEMORY_SHARDS):
            compute(Shard(index, index * rows, (index + 1) * rows).positions)
    sender.send(private_bytes())
    sender.close()


def _measure_streaming(config: BenchmarkConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Whatever the preset: rows are generated."""
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".benchmark-") as directory:
        yield measure_streaming(Path(directory) / "memory")


_PARTS: Mapping[str, Callable[[BenchmarkConfig, Workspace], Iterator[Measurement]]] = {
    "cip": _measure_cip,
    "search": _measure_search,
    "labels": _measure_labels,
    "memory": _measure_memory,
    "certification": measure_certification,
    "attacks": measure_attacks,
    "transformer": measure_table_ix,
    "streaming": _measure_streaming,
}
