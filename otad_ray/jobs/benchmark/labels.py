"""The benchmark's parts on the label job: its rate by number of actors, and the private memory of an actor."""

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from otad_ray.benchmarks import Measurement, private_bytes, threads, time_flat_search
from otad_ray.engine.run import open_session, run_shards
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.task import Unit
from otad_ray.machine import num_cores
from otad_ray.memory import NeighborMemory
from otad_ray.options import ActorJobConfig, PoolRequest
from otad_ray.recipes.labels import LabelTask
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace

_MEMORY_SHARDS = 4
_MEMORY_GROWTH = 10

# Goals, as ratios of which more is better.
_LABELS_GOAL, _RAY_GOAL, _PRIVATE_GOAL = 3.0, 1 / 1.15, 0.95


def measure_label_rates(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure the rates of the label job by number of actors, in one process, and of `IndexFlatL2.search` alone."""
    memory = ensure_memory(workspace)
    cores = num_cores()
    plain = _measure_rate(config, memory, replace(config.pool, num_actors=None, local=True))
    with open_session(config.pool):
        most = config.num_actors or cores
        rates = {
            count: _measure_rate(config, memory, replace(config.pool, num_actors=count)) for count in sorted({1, most})
        }
    with threads(cores):
        flat = len(memory) / time_flat_search(memory.keys, config.preset.integration.num_neighbors + 1)
    rows = f"{len(memory)} rows"
    note = f"{rows}, against IndexFlatL2, {cores} threads"
    yield _compare_rates("labels_against_flat", rates[most], flat, _LABELS_GOAL, note)
    note = f"{rows}, one actor, against one process without Ray"
    yield _compare_rates("labels_against_loop", rates[1], plain, _RAY_GOAL, note)
    if most > 1:
        yield _compare_rates("labels_by_actors", rates[most], rates[1], None, f"{rows}, {most} actors against one")


def measure_private_memory(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure the private memory of a process that labels rows, for a tenth of the memory and the whole."""
    memory = ensure_memory(workspace)
    tenth = slice(0, len(memory) // _MEMORY_GROWTH)
    with tempfile.TemporaryDirectory(dir=memory.directory.parent, prefix=".benchmark-") as directory:
        keys = None if memory.keys is memory.points else [memory.keys[tenth]]
        arrays = (memory.points, memory.features, memory.labels, memory.ids)
        small = NeighborMemory.build(
            Path(directory) / "memory", keys, *([array[tenth]] for array in arrays), point_space=memory.point_space
        )
        rows = min(config.rows_per_shard, len(small) // _MEMORY_SHARDS)
        private = [_measure_private_bytes(config, part, rows) / 2**20 for part in (small, memory)]
    yield Measurement(
        name="private_memory",
        unit="MiB/actor",
        ours=private[1],
        reference=private[0],
        ratio=private[0] / private[1],
        goal=_PRIVATE_GOAL,
        note=f"{len(memory)} rows against {len(small)}; the mapped files are {_count_mapped_bytes(memory) / 2**20:.0f} "
        "MiB",
    )


def _compare_rates(name: str, ours: float, reference: float, goal: float | None, note: str) -> Measurement:
    return Measurement(
        name=name, unit="rows/s", ours=ours, reference=reference, ratio=ours / reference, goal=goal, note=note
    )


def _measure_rate(config: ActorJobConfig, memory: NeighborMemory, pool: PoolRequest) -> float:
    """Return the rows a second of the label job after start-up."""
    with _start_labels(config, memory, rows=len(memory), rows_per_shard=config.rows_per_shard) as unit:
        return run_shards([unit], pool).rows_per_second


@contextmanager
def _start_labels(
    config: ActorJobConfig, memory: NeighborMemory, *, rows: int, rows_per_shard: int
) -> Iterator[Unit[LabelTask]]:
    """Start a directory of labels that is removed again, beside the memory: on a cluster actors share that disk."""
    task = LabelTask(
        config.preset.name, str(memory.directory), config.search_name, config.preset.integration, dense=False
    )
    with tempfile.TemporaryDirectory(dir=memory.directory.parent, prefix=".benchmark-") as directory:
        output = ShardedDirectory.start(
            Path(directory), kind="labels", identity={}, rows=rows, rows_per_shard=rows_per_shard
        )
        yield Unit(output, task)


def _count_mapped_bytes(memory: NeighborMemory) -> int:
    return sum(path.stat().st_size for path in memory.directory.glob("*.npy"))


def _measure_private_bytes(config: ActorJobConfig, memory: NeighborMemory, rows: int) -> int:
    """Return the private bytes of a new process that labels a few shards of so many rows."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with _start_labels(config, memory, rows=_MEMORY_SHARDS * rows, rows_per_shard=rows) as unit:
        process = context.Process(target=_label_and_tell, args=(unit, sender))
        process.start()
        sender.close()
        try:
            return receiver.recv()
        finally:
            process.join()


def _label_and_tell(unit: Unit[LabelTask], sender: Connection) -> None:
    """Label, and send the process's private bytes, in a process of its own."""
    run_shards([unit], PoolRequest(local=True))
    sender.send(private_bytes())
    sender.close()
