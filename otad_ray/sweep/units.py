"""What a sweep consists of: for every defense, attack and budget a directory of records, and one of certificates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from otad_ray.artifacts import to_jsonable
from otad_ray.attacks import ATTACKS, Attack, Budget
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.recipes.defenses import DefenseSource
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.tasks import COHORT_SIZE, AttackTask, CleanTask, Samples

# Attacks that must break everything where nothing bounds them: they see whether the records would show it.
SANITY_ATTACKS = ("neighbor_aware",)

# Folders of a preset by kind of result.
FOLDERS = {"attack": "attacks", "clean": "clean"}

Task = TypeVar("Task", AttackTask, CleanTask)


@dataclass(frozen=True)
class Unit(Generic[Task]):
    """One directory of results, and the work that fills it."""

    output: ShardedDirectory
    task: Task


@dataclass(frozen=True)
class PlannedAttack:
    """An attack of the sweep, and the number of samples that it is run on."""

    name: str
    samples: int

    @property
    def attack(self) -> Attack:
        return ATTACKS[self.name]


@dataclass(frozen=True)
class SweepPlan:
    """Everything that decides what a sweep's records are, apart from the defenses.

    attacks: cheap ones first. budgets: eps ascending, in one norm. unbounded: for attacks that choose the norm
    themselves, which are run once. sanity: a budget that reaches all inputs, for a check; None without bounds.
    """

    samples: Samples
    attacks: tuple[PlannedAttack, ...]
    budgets: tuple[Budget, ...]
    unbounded: Budget
    sanity: Budget | None
    early_stop: bool
    search: str
    rows_per_shard: int

    def budgets_of(self, planned: PlannedAttack) -> tuple[Budget, ...]:
        """Budgets that an attack is run with."""
        if planned.attack.chooses_norm:
            return (self.unbounded,)
        if self.sanity is None or planned.name not in SANITY_ATTACKS:
            return self.budgets
        return (*self.budgets, self.sanity)


def attack_units(workspace: Workspace, plan: SweepPlan, source: DefenseSource) -> Iterator[Unit[AttackTask]]:
    """Units of a defense in the order of the plan; with early stop each looks at those before it."""
    before: list[Unit[AttackTask]] = []
    for planned in plan.attacks:
        units = [_unit(workspace, plan, source, planned, budget, before) for budget in plan.budgets_of(planned)]
        yield from units
        # What breaks everything without bounds is a check, and spares nobody.
        before += [unit for unit in units if plan.early_stop and unit.task.budget != plan.sanity]


def clean_unit(workspace: Workspace, plan: SweepPlan, source: DefenseSource, *, certified: bool) -> Unit[CleanTask]:
    """What a defense does with the samples as they are."""
    identity = {
        "defense": source.fingerprint,
        "guide": Path(source.guide).name,
        "certified": certified,
        **_sample_identity(workspace, plan.samples),
    }
    output = _start(workspace, plan, "clean", identity, plan.samples.count)
    return Unit(output, CleanTask(plan.samples, source, plan.search, certified))


def _unit(
    workspace: Workspace,
    plan: SweepPlan,
    source: DefenseSource,
    planned: PlannedAttack,
    budget: Budget,
    before: Sequence[Unit[AttackTask]],
) -> Unit[AttackTask]:
    # An example found with a smaller budget breaks the sample with a larger one too. What chooses the norm may break it
    # with less than any budget so far, and has no budget to be compared.
    reached = () if planned.attack.chooses_norm else before
    earlier = [str(unit.output.directory) for unit in reached if unit.task.budget.eps <= budget.eps]
    samples = replace(plan.samples, count=planned.samples)
    task = AttackTask(samples, source, planned.name, planned.attack, budget, plan.search, tuple(earlier))
    identity = {
        "defense": source.fingerprint,
        "guide": Path(source.guide).name,
        "attack": {"name": planned.name, **to_jsonable(planned.attack), **_revision(planned.attack)},
        # JSON knows no infinity.
        "budget": {**to_jsonable(budget), "eps": str(budget.eps)},
        "earlier": [Path(path).name for path in earlier],
        **_sample_identity(workspace, samples),
    }
    return Unit(_start(workspace, plan, "attack", identity, planned.samples), task)


def _revision(attack: Attack) -> dict[str, int]:
    """Nothing for the first one, so that a later field changes no earlier identity."""
    return {"revision": attack.revision} if attack.revision > 1 else {}


def _sample_identity(workspace: Workspace, samples: Samples) -> dict[str, Any]:
    return {
        "data": workspace.rows(samples.split).fingerprint,
        "split": samples.split,
        "seed": samples.seed,
        "samples": samples.count,
        "cohort_size": COHORT_SIZE,
    }


def _start(workspace: Workspace, plan: SweepPlan, kind: str, identity: dict[str, Any], rows: int) -> ShardedDirectory:
    directory = workspace.directory(FOLDERS[kind], identity)
    return ShardedDirectory.start(
        directory, kind=kind, identity=identity, rows=rows, rows_per_shard=plan.rows_per_shard
    )
