"""Measure how fast integration, search, the label job and its memory are, as ratios taken within one run.

python jobs/benchmark.py                      # mnist
python jobs/benchmark.py digits --parts search labels
python jobs/benchmark.py cifar10_vit --parts transformer
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from otad_ray.artifacts import write_json
from otad_ray.benchmarks import Measurement
from otad_ray.engine.run import check_pool
from otad_ray.errors import InputError
from otad_ray.jobs.benchmark.core import measure_integration, measure_streamed_memory
from otad_ray.jobs.benchmark.global_program import measure_global_program
from otad_ray.jobs.benchmark.labels import measure_label_rates, measure_private_memory
from otad_ray.jobs.benchmark.purifiers import measure_purifiers
from otad_ray.jobs.benchmark.robustness import measure_attack_rates, measure_certification
from otad_ray.jobs.benchmark.search import measure_neighbor_search
from otad_ray.jobs.benchmark.transformer import check_transformer, measure_table_ix
from otad_ray.machine import describe_machine
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.workspace import Workspace
from otad_ray.tracking import RunRecord, redacted

# Parts that compare pools of actors, which a job without Ray has none of.
_PARTS_WITH_ACTORS = ("labels", "attacks")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ActorJobConfig):
    """Options of the benchmark.

    Attributes:
        parts: which measurements: any of cip, search, labels, memory, certification, attacks; besides transformer,
            Table IX of the paper for a preset with such a backbone; streaming, a memory of 5 GB; purifiers, the
            baselines that stand before the net, which are trained where they are missing; and global, the potential
            over all training points, which is fitted if it is missing.
    """

    parts: tuple[str, ...] = ("cip", "search", "labels", "memory", "certification", "attacks")

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in self.parts:
            if part not in _PARTS:
                raise InputError(f"unknown part {part!r}; known: {', '.join(_PARTS)}")
            if self.local and part in _PARTS_WITH_ACTORS:
                raise InputError(f"part {part!r} compares pools of Ray actors; leave out --local, or this part")


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure, print a table, log it, and return the job's summary."""
    if "transformer" in config.parts:
        check_transformer(config.preset)
    check_pool(config.pool)
    workspace = Workspace(config)
    measurements = []
    for part in config.parts:
        for measurement in _PARTS[part](config, workspace):
            print(_format_line(measurement), file=sys.stderr, flush=True)
            measurements.append(measurement)
    described = describe_machine()
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


def _format_line(item: Measurement) -> str:
    """Return a measurement as a line of the table."""
    goal = "" if item.goal is None else f"goal {item.goal:.4g}: {'met' if item.met else 'MISSED'}"
    return (
        f"{item.name:<22} {item.ours:10.4g} against {item.reference:10.4g} {item.unit:<9} "
        f"{item.ratio:8.4g} x  {goal:<18} {item.note}"
    )


_PARTS: Mapping[str, Callable[[ActorJobConfig, Workspace], Iterator[Measurement]]] = {
    "cip": measure_integration,
    "search": measure_neighbor_search,
    "labels": measure_label_rates,
    "memory": measure_private_memory,
    "certification": measure_certification,
    "attacks": measure_attack_rates,
    "transformer": measure_table_ix,
    "streaming": measure_streamed_memory,
    "purifiers": measure_purifiers,
    "global": measure_global_program,
}
