"""The units of a sweep: for every defense, attack and budget a directory of records, and one of certificates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otad_ray.artifacts import to_jsonable
from otad_ray.attacks import Budget, NamedAttack
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.task import Unit
from otad_ray.recipes.approximate_search import identify_search
from otad_ray.recipes.defense_source import DefenseSource
from otad_ray.recipes.shard_job import Units
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.plan import PlannedAttack, SweepPlan
from otad_ray.sweep.probe import Probe
from otad_ray.sweep.samples import COHORT_SIZE, Samples
from otad_ray.sweep.tasks import ATTACK_KIND, CLEAN_KIND, AttackTask, CleanTask

# Folders of a preset by kind of result.
_FOLDERS = {ATTACK_KIND: "attacks", CLEAN_KIND: "clean"}


@dataclass(frozen=True)
class DefenseUnits:
    """All that a sweep computes of a defense.

    Attributes:
        source: where the defense is.
        probe: what it did with a few samples.
        clean: its samples as they are.
        attacks: its attacks, in the order of the plan.
    """

    source: DefenseSource
    probe: Probe
    clean: Unit[CleanTask]
    attacks: tuple[Unit[AttackTask], ...]

    @property
    def outputs(self) -> list[ShardedDirectory]:
        """Directories of all its results."""
        return [self.clean.output, *(unit.output for unit in self.attacks)]


def plan_units(workspace: Workspace, plan: SweepPlan, source: DefenseSource, probe: Probe) -> DefenseUnits:
    """Start, or continue, the directories of a defense's results."""
    plan = plan.limit(source.max_samples)
    clean = make_clean_unit(workspace, plan, source, probe)
    return DefenseUnits(source, probe, clean, tuple(make_attack_units(workspace, plan, source)))


def order_units(plan: SweepPlan, defenses: Sequence[DefenseUnits]) -> list[Units]:
    """Return the units in stages: all at once, cheap ones first; with early stop, attack by attack.

    With early stop each attack looks at the records of those before it.
    """
    clean = [defense.clean for defense in defenses]
    attacks = [unit for defense in defenses for unit in defense.attacks]
    if not plan.early_stop:
        return [[*clean, *sorted(attacks, key=lambda unit: unit.task.named.attack.cost.total)]]
    by_attack = [[unit for unit in attacks if unit.task.name == planned.name] for planned in plan.attacks]
    return [clean, *by_attack]


def make_attack_units(workspace: Workspace, plan: SweepPlan, source: DefenseSource) -> Iterator[Unit[AttackTask]]:
    """Yield the units of a defense in the order of the plan; with early stop each looks at those before it."""
    before: list[Unit[AttackTask]] = []
    for planned in plan.attacks:
        units = [
            _make_attack_unit(workspace, plan, source, planned, budget, before) for budget in plan.budgets_of(planned)
        ]
        yield from units
        # An attack that breaks everything because nothing bounds it is a check, and spares nobody.
        before += [unit for unit in units if plan.early_stop and unit.task.budget != plan.sanity]


def make_clean_unit(workspace: Workspace, plan: SweepPlan, source: DefenseSource, probe: Probe) -> Unit[CleanTask]:
    """Return the unit of a defense's samples as they are.

    A first revision of the certificate is left out of its identity: the field came later, and changed none.
    """
    certified, revision = probe.not_certified is None, probe.certificate_revision
    identity = {
        "defense": source.fingerprint,
        "guide": Path(source.surrogate).name,
        "certified": certified,
        **({"certificate_revision": revision} if certified and revision > 1 else {}),
        **_identify_samples(workspace, plan.samples),
        **identify_search(source.search),
    }
    output = _start(workspace, plan, CLEAN_KIND, identity, plan.samples.count)
    return Unit(output, CleanTask(plan.samples, source, certified))


def _make_attack_unit(
    workspace: Workspace,
    plan: SweepPlan,
    source: DefenseSource,
    planned: PlannedAttack,
    budget: Budget,
    before: Sequence[Unit[AttackTask]],
) -> Unit[AttackTask]:
    # An example found with a smaller budget breaks the sample with a larger one too. An attack that chooses the norm
    # may break it with less than any budget so far, and has no budget to be compared.
    reached = () if planned.attack.chooses_norm else before
    earlier = [str(unit.output.directory) for unit in reached if unit.task.budget.eps <= budget.eps]
    samples = replace(plan.samples, count=planned.samples)
    task = AttackTask(samples, source, planned.named, budget, tuple(earlier))
    identity = {
        "defense": source.fingerprint,
        # The key is older than the word surrogate, and existing records lie under it.
        "guide": Path(source.surrogate).name,
        "attack": _identify_attack(planned.named),
        # JSON knows no infinity.
        "budget": {**to_jsonable(budget), "eps": str(budget.eps)},
        "earlier": [Path(path).name for path in earlier],
        **_identify_samples(workspace, samples),
        **identify_search(source.search),
    }
    return Unit(_start(workspace, plan, ATTACK_KIND, identity, planned.samples), task)


def _identify_attack(named: NamedAttack) -> dict[str, Any]:
    """Return what records depend on of an attack: its settings and, of a user's own, its file.

    A first revision is left out: the field came later, and changed no earlier identity.
    """
    attack = named.attack
    revision = {"revision": attack.revision} if attack.revision > 1 else {}
    file = {} if named.fingerprint is None else {"file": named.fingerprint}
    return {"name": named.name, **to_jsonable(attack), **revision, **file}


def _identify_samples(workspace: Workspace, samples: Samples) -> dict[str, Any]:
    return {
        "data": workspace.rows(samples.split).fingerprint,
        "split": samples.split,
        "seed": samples.seed,
        "samples": samples.count,
        "cohort_size": COHORT_SIZE,
    }


def _start(workspace: Workspace, plan: SweepPlan, kind: str, identity: dict[str, Any], rows: int) -> ShardedDirectory:
    directory = workspace.directory(_FOLDERS[kind], identity)
    return ShardedDirectory.start(
        directory, kind=kind, identity=identity, rows=rows, rows_per_shard=plan.rows_per_shard
    )
