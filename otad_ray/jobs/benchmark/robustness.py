"""The benchmark's parts on robustness: the defense's forward pass, certificates, attacks, and the sweep on actors."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from otad_ray.attacks import Budget, name_attack
from otad_ray.benchmarks import (
    Measurement,
    measure_certificates,
    measure_forward,
    measure_pgd,
    measure_square,
    threads,
)
from otad_ray.defenses import OTAD
from otad_ray.engine.run import open_session, run_shards
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.task import Unit
from otad_ray.machine import num_cores
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.defense_source import DefenseSource
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.samples import COHORT_SIZE, Samples
from otad_ray.sweep.tasks import AttackTask

_SAMPLES = 1000
_ATTACKED = 200
_EPS = {"l2": 1.0, "linf": 0.1}
# At an eps that breaks nobody, so that every cohort is as long as any other.
_SWEPT, _SWEEP_ATTACK, _SWEEP_EPS = 400, "square_500", 0.1

# Goals, as ratios of which more is better. A certificate may take as long as 20 forward passes.
_FORWARD_GOAL, _CERTIFICATE_GOAL, _ATTACK_GOAL, _ACTORS_GOAL = 1.0, 1.0, 1.0, 1.7


def measure_certification(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """The forward pass against plain search, and certificates against forward passes, on test samples."""
    otad, samples = _open_otad(workspace), _draw_samples(workspace, _SAMPLES)
    x = samples.take(np.arange(samples.count)).x
    for num_threads in sorted({1, num_cores()}):
        yield measure_forward(otad, x, num_threads=num_threads, goal=_FORWARD_GOAL)
    with threads(1):
        yield measure_certificates(otad, x, goal=_CERTIFICATE_GOAL)


def measure_attack_rates(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Attacks against those of libraries, on the undefended net; then the sweep on two actors against one."""
    net, samples = _open_otad(workspace).backbone, _draw_samples(workspace, _ATTACKED)
    batch = samples.take(np.arange(samples.count))
    with threads(1):
        for norm in ("l2", "linf"):
            budget = Budget(eps=_EPS[norm], norm=norm, bounds=workspace.definition.bounds)
            yield measure_square(net, batch.x, batch.y, budget, goal=_ATTACK_GOAL)
            yield measure_pgd(net, batch.x, batch.y, budget, goal=_ATTACK_GOAL)
    if num_cores() > 1:
        yield _measure_actors(config, workspace)


def _measure_actors(config: ActorJobConfig, workspace: Workspace) -> Measurement:
    source = _find_otad(workspace)
    with open_session(config.pool):
        one, two = (_sweep_rate(config, workspace, source, count) for count in (1, 2))
    return Measurement(
        name="sweep_by_actors",
        unit="samples/s",
        ours=two,
        reference=one,
        ratio=two / one,
        goal=_ACTORS_GOAL,
        note=f"{_SWEEP_ATTACK} on OTAD, two actors against one",
    )


def _sweep_rate(config: ActorJobConfig, workspace: Workspace, source: DefenseSource, num_actors: int) -> float:
    """Samples attacked a second, after start-up."""
    samples = _draw_samples(workspace, _SWEPT)
    budget = Budget(eps=_SWEEP_EPS, bounds=workspace.definition.bounds)
    task = AttackTask(samples, source, name_attack(_SWEEP_ATTACK), budget)
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".benchmark-") as directory:
        output = ShardedDirectory.start(
            Path(directory), kind="attack", identity={}, rows=samples.count, rows_per_shard=COHORT_SIZE
        )
        return run_shards([Unit(output, task)], replace(config.pool, num_actors=num_actors)).rows_per_second


def _draw_samples(workspace: Workspace, count: int) -> Samples:
    there = len(workspace.rows("test"))
    return Samples(workspace.preset, "test", workspace.folders, 0, min(count, there))


def _find_otad(workspace: Workspace) -> DefenseSource:
    return find_defenses(workspace, ("otad",))["otad"]


def _open_otad(workspace: Workspace) -> OTAD:
    return cast(OTAD, _find_otad(workspace).open())
