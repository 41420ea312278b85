"""Attack and certify defenses, also your own, and report a bracket: certified <= robust accuracy <= worst attack.

python jobs/attack_sweep.py                                # digits
python jobs/attack_sweep.py mnist --samples 1000
python jobs/attack_sweep.py mnist --defense otad path/to/file.py:build --attacks pgd square_500 --eps 1 2
"""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otad_ray.artifacts import versions
from otad_ray.attacks import ATTACKS, Budget, Norm, check_logits, find_attack
from otad_ray.certification import certified_radius
from otad_ray.cip import check_solver, refuse_interruptions
from otad_ray.data import Batch, DataSet, Split
from otad_ray.engine.capacity import check_num_actors
from otad_ray.engine.ray_session import num_cores
from otad_ray.engine.run import ShardTask, run_unfinished
from otad_ray.engine.shard_seconds import stage_seconds
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.errors import InputError
from otad_ray.jobs.evaluate import check_split
from otad_ray.monitoring.counts import count_tables
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.defenses import (
    OTAD_NN,
    DefenseSource,
    check_cip_net_directory,
    check_names,
    find_defenses,
)
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.report import SweptDefense, report_sweep
from otad_ray.sweep.tasks import COHORT_SIZE, RETRYABLE_RECORDS, AttackTask, CleanTask, Samples
from otad_ray.sweep.units import PlannedAttack, SweepPlan, Unit, attack_units, clean_unit

logger = logging.getLogger(__name__)

_ATTACKS = ("noise", "fgsm", "transfer", "neighbor_aware", "pgd", "bpda_pgd", "square_500")
# On what the memory is searched by.
METRIC_ATTACK = "dml_pgd"
_COSTLY_ATTACKS = (
    "pgd_200",
    "pgd_restarts",
    "smoothed_pgd",
    "square_2000",
    "cw_ngopt_0.1",
    "cw_ngopt_0.15",
    "cw_ngopt_0.2",
    "autoattack",
)
_EPS: dict[tuple[str, str], tuple[float, ...]] = {
    ("classification", "l2"): (0.5, 1.0, 2.0, 3.0),
    ("classification", "linf"): (0.05, 0.1, 0.2, 0.3),
    # Those of the paper's Table V.
    ("regression", "l2"): (0.1, 0.2, 0.5),
    ("regression", "linf"): (0.05, 0.1, 0.2),
}
_DEFAULT_SAMPLES = 1000
# What is counted of each kind of records; examples and logits are large.
_COUNTED = {
    "attack": ("status", "relaxations", "queries", "gradient_queries", "broken"),
    "clean": ("status", "radius", "clean_correct"),
}
# Forward passes of every example: as it was, as it is, and that once more.
_VERIFICATION = 3


@dataclass(frozen=True, kw_only=True)
class SweepConfig(ActorJobConfig):
    """Options of the sweep.

    Attributes:
        defense: otad, otad_released (the authors' cross term), otad_nn (CIP-net in place of the solver), knn, net
            (undefended), plain_otad and plain_net (without residual connections), or path/to/file.py:function, which
            returns your own torch.nn.Module.
        cip_net_directory: a CIP-net for otad_nn in place of the preset's.
        attacks: attacks on all samples (default: the cheap ones that fit the data set).
        costly_attacks: attacks on the first costly_samples (default: those that fit, or none where attacks are named).
        costly_samples: see costly_attacks.
        eps: radii of the perturbations, in the unit of the inputs (default: by norm and task).
        norm: l2 or linf.
        samples: how many, drawn from the split by the seed (default: 1000, or all of a smaller split).
        split: where samples are drawn from.
        seed: of the samples and of the attacks.
        early_stop: do not attack a sample again that is broken already with an eps: the same worst case in less time,
            but then attacks cannot be compared.
        rows_per_shard: samples attacked and written at a time, in cohorts of 100.
    """

    defense: tuple[str, ...] = ("otad", "net")
    cip_net_directory: str | None = None
    attacks: tuple[str, ...] | None = None
    costly_attacks: tuple[str, ...] | None = None
    costly_samples: int = 200
    eps: tuple[float, ...] | None = None
    norm: Norm = "l2"
    samples: int | None = None
    split: Split = "test"
    seed: int = 0
    early_stop: bool = False
    rows_per_shard: int = COHORT_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.defense)
        asked = OTAD_NN in self.defense
        check_cip_net_directory(self.cip_net_directory, asked=asked, option=f"--defense {OTAD_NN}")
        for name in (*(self.attacks or ()), *(self.costly_attacks or ())):
            find_attack(name)
        for eps in self.eps or ():
            if Budget(eps=eps, norm=self.norm).eps == inf:
                raise InputError(
                    "need a finite eps; attacks that choose the norm themselves are run once by themselves"
                )
        for name in ("samples", "costly_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"need {name} >= 1, got {value}")
        if self.rows_per_shard % COHORT_SIZE:
            raise InputError(f"rows_per_shard must be a multiple of {COHORT_SIZE}, a cohort, got {self.rows_per_shard}")
        if self.seed < 0:
            raise InputError(f"need seed >= 0, got {self.seed}")


def run_attack_sweep(config: SweepConfig) -> dict[str, Any]:
    """Attack and certify defenses, report the bracket; what the last line of the job's output says.

    A rerun computes the cohorts that are missing, and those on which an attack raised an error. Raises InputError,
    after everything else is done and reported, where a user's module raised.
    """
    check_solver(config.preset.integration.solver)
    check_num_actors(config.pool, config.address)
    check_split(config.preset, config.split)
    workspace = Workspace(config)
    rows = workspace.rows(config.split)
    rows.check()
    plan = make_plan(workspace, config)
    sources = find_defenses(workspace, config.defense, config.search, cip_net=config.cip_net_directory)
    swept = [_prepare(workspace, plan, source) for source in sources.values()]
    _print_cost(plan, swept, config)

    seconds = 0.0
    for stage in _stages(plan, swept):
        seconds += run_unfinished(stage, config, retryable=RETRYABLE_RECORDS).seconds
    for output in (output for defense in swept for output in defense.outputs):
        output.refuse_strangers()
        complete = not output.unfinished(RETRYABLE_RECORDS)
        if output.manifest["complete"] != complete:
            output.update(complete=complete, versions=versions(), **_counted(output))
    result = report_sweep(workspace, plan, swept, seconds)
    _raise_errors(swept)
    return result


def _counted(output: ShardedDirectory) -> dict[str, Any]:
    """What its manifest says of a unit's records, as metrics do."""
    counts = count_tables(table for _, table in output.tables(_COUNTED[output.manifest["kind"]]))
    return {"counts": counts.as_dict(), "stage_seconds": stage_seconds(output)}


def make_plan(workspace: Workspace, config: SweepConfig) -> SweepPlan:
    """What the configuration asks for; InputError for what cannot be, before any work."""
    definition = workspace.definition
    there = len(workspace.rows(config.split))
    count = min(_DEFAULT_SAMPLES, there) if config.samples is None else config.samples
    if count > there:
        raise InputError(f"samples is {count}, but {config.split} of {definition.name} has {there}")
    eps = config.eps or _EPS[definition.task, config.norm]
    budgets = tuple(Budget(eps=value, norm=config.norm, bounds=definition.bounds) for value in sorted(set(eps)))
    if METRIC_ATTACK in (*(config.attacks or ()), *(config.costly_attacks or ())) and not workspace.preset.has_metric:
        raise InputError(
            f"attack {METRIC_ATTACK!r} attacks the metric net, and preset {workspace.preset.name!r} has none; "
            "give one with --metric.architecture"
        )
    planned: dict[str, PlannedAttack] = {}
    costly = min(config.costly_samples, count)
    defaults_of_costly = _COSTLY_ATTACKS if config.attacks is None else ()
    for asked, defaults, samples in (
        (config.costly_attacks, defaults_of_costly, costly),
        # Without a metric net there is none to attack.
        (config.attacks, (*_ATTACKS, *((METRIC_ATTACK,) if workspace.preset.has_metric else ())), count),
    ):
        for name in _fitting(asked, defaults, budgets[0], regression=definition.task == "regression"):
            planned[name] = PlannedAttack(name, samples)
    if not planned:
        raise InputError(f"need an attack; known: {', '.join(ATTACKS)}")
    return SweepPlan(
        samples=Samples(workspace.preset, config.split, workspace.folders, config.seed, count),
        attacks=tuple(sorted(planned.values(), key=lambda item: (item.attack.cost.total, item.name))),
        budgets=budgets,
        unbounded=Budget(eps=inf, norm=config.norm, bounds=definition.bounds),
        sanity=_sanity_budget(definition, budgets),
        early_stop=config.early_stop,
        search=config.search,
        rows_per_shard=config.rows_per_shard,
    )


def _sanity_budget(definition: DataSet, budgets: Sequence[Budget]) -> Budget | None:
    """The diameter of the box that inputs lie in; None where there is none, or where it is asked for anyhow."""
    if definition.bounds is None or definition.task == "regression":
        return None
    width, norm = definition.bounds[1] - definition.bounds[0], budgets[0].norm
    diameter = width * (sqrt(definition.dimension) if norm == "l2" else 1.0)
    found = Budget(eps=diameter, norm=norm, bounds=definition.bounds)
    return None if found in budgets else found


def _fitting(
    asked: Sequence[str] | None, defaults: Sequence[str], budget: Budget, *, regression: bool
) -> Iterator[str]:
    """The attacks asked for, InputError where one does not fit; else those of the defaults that do."""
    for name in defaults if asked is None else asked:
        attack = find_attack(name)
        trial = Budget(eps=inf, norm=budget.norm, bounds=budget.bounds) if attack.chooses_norm else budget
        try:
            attack.check(trial, regression=regression)
        except InputError as error:
            if asked is not None:
                raise InputError(f"attack {name!r}: {error}") from error
            logger.info("without %s: %s", name, error)
        else:
            yield name


def _prepare(workspace: Workspace, plan: SweepPlan, source: DefenseSource) -> SweptDefense:
    """Ask the defense for a few samples: InputError for one that cannot be attacked."""
    defense = source.open(plan.search)
    batch = plan.samples.take(np.arange(min(COHORT_SIZE, plan.samples.count)))
    try:
        with refuse_interruptions():
            forward, gradient = _probe(defense, batch, workspace.definition.num_outputs)
            reason = _refusal(defense, batch)
    except InputError as error:
        raise InputError(f"defense {source.name!r}: {error}") from error
    except Exception as error:
        raise InputError(
            f"defense {source.name!r} raised {type(error).__name__}: {error}, on a batch of {len(batch.x)} samples"
        ) from error
    if reason:
        logger.info("%s: not certified: %s", source.name, reason)
    return SweptDefense(
        source=source,
        clean=clean_unit(workspace, plan, source, certified=reason is None),
        attacks=tuple(attack_units(workspace, plan, source)),
        not_certified=reason,
        forward_seconds=forward,
        gradient_seconds=gradient,
    )


def _probe(defense: nn.Module, batch: Batch, num_outputs: int) -> tuple[float, float]:
    """Check the outputs; seconds a sample of a forward pass, and of one with a gradient, on one thread as in actors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            logits = defense(batch.x)
            check_logits(logits, batch.x, batch.y)
            if logits.shape[1] != num_outputs:
                raise InputError(
                    f"the data set has {num_outputs} classes, the defense returns {logits.shape[1]} logits"
                )
            started = time.perf_counter()
            defense(batch.x)
        middle = time.perf_counter()
        _differentiate(defense, batch.x)
        ended = time.perf_counter()
    finally:
        torch.set_num_threads(before)
    return (middle - started) / len(batch.x), (ended - middle) / len(batch.x)


def _differentiate(defense: nn.Module, x: Tensor) -> None:
    inputs = x.clone().requires_grad_()
    try:
        outputs = defense(inputs)
        if outputs.requires_grad:
            torch.autograd.grad(outputs.sum(), inputs, allow_unused=True)
    except RuntimeError as error:
        # Attacks that only ask for outputs can still be run on it.
        logger.warning("%s has no gradient (%s): attacks with one will fail on it", type(defense).__name__, error)


def _refusal(defense: nn.Module, batch: Batch) -> str | None:
    """Why a defense has no certificate; None where it has one."""
    try:
        certified_radius(defense, batch.x[:1])
    except InputError as error:
        return str(error)
    return None


def _print_cost(plan: SweepPlan, swept: Sequence[SweptDefense], config: SweepConfig) -> None:
    """An estimate of what is still to be done, as if no sample were broken, by the times of full cohorts."""
    actors = config.num_actors or num_cores()
    lines, total = [], 0.0
    for defense in swept:
        for unit in defense.attacks:
            there = 1 - len(unit.output.unfinished(RETRYABLE_RECORDS)) / sum(1 for _ in unit.output.shards)
            cost = unit.task.attack.cost
            forwards = cost.forwards + _VERIFICATION
            each = forwards * defense.forward_seconds + cost.gradients * defense.gradient_seconds
            seconds = (1 - there) * unit.task.samples.count * (each + cost.own_seconds) / actors
            total += seconds
            if seconds >= 60:
                eps = unit.task.budget.eps
                lines.append(f"  {defense.source.name:<16}{unit.task.name:<20} eps {eps:<6g}{seconds / 60:8.1f} min")
    head = f"cost: about {total / 60:.1f} min on {actors} actors{', of it:' if lines else ''}"
    print("\n".join([head, *lines]), file=sys.stderr)


def _stages(plan: SweepPlan, swept: Sequence[SweptDefense]) -> Iterator[list[tuple[ShardedDirectory, ShardTask]]]:
    """All work at once, what is cheap first; with early stop attack by attack, since each looks at those before it."""
    clean: list[Unit[CleanTask]] = [defense.clean for defense in swept]
    attacks: list[Unit[AttackTask]] = [unit for defense in swept for unit in defense.attacks]
    if not plan.early_stop:
        cheap_first = sorted(attacks, key=lambda unit: unit.task.attack.cost.total)
        yield [*((unit.output, unit.task) for unit in clean), *((unit.output, unit.task) for unit in cheap_first)]
        return
    yield [(unit.output, unit.task) for unit in clean]
    for planned in plan.attacks:
        yield [(unit.output, unit.task) for unit in attacks if unit.task.name == planned.name]


def _raise_errors(swept: Sequence[SweptDefense]) -> None:
    """InputError with the first of the errors that cohorts ended with."""
    incomplete = [
        (defense.source.name, what, output)
        for defense in swept
        for what, output in (
            *((f"{unit.task.name} at eps {unit.task.budget.eps:g}", unit.output) for unit in defense.attacks),
            ("evaluation", defense.clean.output),
        )
        if not output.manifest["complete"]
    ]
    for name, what, output in incomplete:
        rows = [row for _, table in output.tables(("id", "status", "error")) for row in table.to_pylist()]
        broken = [row for row in rows if row["status"] in RETRYABLE_RECORDS]
        if broken:
            ids = [row["id"] for row in broken]
            raise InputError(
                f"{what} on {name!r} raised on {len(ids)} samples, ids {ids[:10]}{'...' if len(ids) > 10 else ''}: "
                f"{broken[0]['error']}; {len(incomplete)} of the sweep's results lack samples. "
                "All others are kept: mend it and run the same command again"
            )
