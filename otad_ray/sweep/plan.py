"""What a sweep consists of, apart from the defenses: samples, attacks and budgets, with their defaults."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

from otad_ray.attacks import ATTACKS, Attack, Budget, NamedAttack, name_attack
from otad_ray.data import DataSet
from otad_ray.errors import InputError
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.config import SweepConfig
from otad_ray.sweep.samples import Samples

logger = logging.getLogger(__name__)

# Attacks that must break everything if nothing bounds them: this shows whether the records would tell.
SANITY_ATTACKS = ("neighbor_aware",)
# Attacks on the metric net, by whose keys the memory is searched.
METRIC_ATTACK = "dml_pgd"
_ATTACKS = ("noise", "fgsm", "transfer", "neighbor_aware", "pgd", "bpda_pgd", "square_500")
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
_EPS: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("classification", "l2"): (0.5, 1.0, 2.0, 3.0),
    ("classification", "linf"): (0.05, 0.1, 0.2, 0.3),
    # Those of the paper's Table V.
    ("regression", "l2"): (0.1, 0.2, 0.5),
    ("regression", "linf"): (0.05, 0.1, 0.2),
}
_DEFAULT_SAMPLES = 1000


@dataclass(frozen=True)
class PlannedAttack:
    """An attack of the sweep, and the number of samples that it is run on."""

    named: NamedAttack
    samples: int

    @property
    def name(self) -> str:
        """The attack's name in records."""
        return self.named.name

    @property
    def attack(self) -> Attack:
        """The attack itself."""
        return self.named.attack


@dataclass(frozen=True)
class SweepPlan:
    """Everything that decides what a sweep's records are, apart from the defenses.

    Attributes:
        samples: what is attacked.
        attacks: cheap ones first.
        budgets: eps ascending, in one norm.
        unbounded: the budget of attacks that choose the norm themselves, which are run once.
        sanity: a budget that reaches all inputs, at which no defense can be robust; None without bounds.
        early_stop: whether samples are spared once an attack broke them.
        rows_per_shard: samples of a shard.
    """

    samples: Samples
    attacks: tuple[PlannedAttack, ...]
    budgets: tuple[Budget, ...]
    unbounded: Budget
    sanity: Budget | None
    early_stop: bool
    rows_per_shard: int

    @property
    def norm(self) -> str:
        """The norm of all budgets."""
        return self.budgets[0].norm

    def list_eps(self) -> list[float]:
        """Return the eps of all budgets, ascending."""
        return [budget.eps for budget in self.budgets]

    def budgets_of(self, planned: PlannedAttack) -> tuple[Budget, ...]:
        """Return the budgets that an attack is run with."""
        if planned.attack.chooses_norm:
            return (self.unbounded,)
        if self.sanity is None or planned.name not in SANITY_ATTACKS:
            return self.budgets
        return (*self.budgets, self.sanity)

    def limit(self, count: int | None) -> "SweepPlan":
        """Return the plan on its first samples, so many at most; None for all of them."""
        if count is None or count >= self.samples.count:
            return self
        return replace(
            self,
            samples=replace(self.samples, count=count),
            attacks=tuple(replace(planned, samples=min(planned.samples, count)) for planned in self.attacks),
        )


def make_plan(workspace: Workspace, config: SweepConfig) -> SweepPlan:
    """Return the plan that the configuration asks for; InputError, before any work, for one that cannot be."""
    definition = workspace.definition
    there = len(workspace.rows(config.split))
    count = min(_DEFAULT_SAMPLES, there) if config.samples is None else config.samples
    if count > there:
        raise InputError(f"samples is {count}, but {config.split} of {definition.name} has {there}")
    eps = config.eps or _EPS[definition.task, config.norm]
    budgets = tuple(Budget(eps=value, norm=config.norm, bounds=definition.bounds) for value in sorted(set(eps)))
    return SweepPlan(
        samples=Samples(workspace.preset, config.split, workspace.folders, config.seed, count),
        attacks=_plan_attacks(workspace, config, budgets[0], count),
        budgets=budgets,
        unbounded=Budget(eps=inf, norm=config.norm, bounds=definition.bounds),
        sanity=_find_sanity_budget(definition, budgets),
        early_stop=config.early_stop,
        rows_per_shard=config.rows_per_shard,
    )


def _plan_attacks(workspace: Workspace, config: SweepConfig, budget: Budget, count: int) -> tuple[PlannedAttack, ...]:
    """Return the attacks asked for, else those of the defaults that fit the data set; cheap ones first."""
    has_metric, regression = workspace.preset.has_metric, workspace.definition.task == "regression"
    if METRIC_ATTACK in (*(config.attacks or ()), *(config.costly_attacks or ())) and not has_metric:
        raise InputError(
            f"attack {METRIC_ATTACK!r} attacks the metric net, and preset {workspace.preset.name!r} has none; "
            "give one with --metric.architecture"
        )
    planned: dict[str, PlannedAttack] = {}
    for asked, defaults, samples in (
        (config.costly_attacks, _COSTLY_ATTACKS if config.attacks is None else (), min(config.costly_samples, count)),
        (config.attacks, (*_ATTACKS, *((METRIC_ATTACK,) if has_metric else ())), count),
    ):
        for named in _select_fitting(asked, defaults, budget, regression=regression):
            planned[named.name] = PlannedAttack(named, samples)
    if not planned:
        raise InputError(f"need an attack; known: {', '.join(ATTACKS)}, or path/to/file.py:MyAttack for your own")
    return tuple(sorted(planned.values(), key=lambda item: (item.attack.cost.total, item.name)))


def _select_fitting(
    asked: Sequence[str] | None, defaults: Sequence[str], budget: Budget, *, regression: bool
) -> Iterator[NamedAttack]:
    """Yield the attacks asked for, InputError if one does not fit; else those of the defaults that do."""
    for name in defaults if asked is None else asked:
        named = name_attack(name)
        attack = named.attack
        trial = Budget(eps=inf, norm=budget.norm, bounds=budget.bounds) if attack.chooses_norm else budget
        try:
            attack.check(trial, regression=regression)
        except InputError as error:
            if asked is not None:
                raise InputError(f"attack {name!r}: {error}") from error
            logger.info("without %s: %s", name, error)
        else:
            yield named


def _find_sanity_budget(definition: DataSet, budgets: Sequence[Budget]) -> Budget | None:
    """Return a budget as large as the whole input box, at which no defense can be robust.

    Returns:
        The budget; None if inputs are unbounded, or that budget is already in the sweep.
    """
    if definition.bounds is None or definition.task == "regression":
        return None
    width, norm = definition.bounds[1] - definition.bounds[0], budgets[0].norm
    diameter = width * (sqrt(definition.dimension) if norm == "l2" else 1.0)
    found = Budget(eps=diameter, norm=norm, bounds=definition.bounds)
    return None if found in budgets else found
