"""A flag: one reason for which a sweep's numbers cannot be trusted, and the evidence that checks look at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import pyarrow as pa

from otad_ray.attacks import AttackKind
from otad_ray.errors import InputError
from otad_ray.evaluation.bracket.attack_outcomes import AttackOutcome, attack_outcomes, has_status
from otad_ray.evaluation.records.schema import RecordStatus

Severity = Literal["grave", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One finding.

    Attributes:
        name: what was found.
        severity: grave if the numbers are wrong or mean nothing, warning if they may be, info if a check was left out.
        message: the finding in words.
        attack: the attack that it is about; None for no single one.
        norm: the norm that it is about; None for no single one.
        eps: the budget that it is about; None for no single one.
        value: what was measured.
        threshold: what the value was compared with.
    """

    name: str
    severity: Severity
    message: str
    attack: str | None = None
    norm: str | None = None
    eps: float | None = None
    value: float | None = None
    threshold: float | None = None


def make_flag(
    outcome: AttackOutcome, *, name: str, severity: Severity, message: str, value: float | None, threshold: float
) -> Flag:
    """Return a finding on one attack at one budget."""
    return Flag(
        name=name,
        severity=severity,
        message=message,
        attack=outcome.attack,
        norm=outcome.norm,
        eps=outcome.eps,
        value=value,
        threshold=threshold,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the checks look at: records of one defense, of which METRIC_COLUMNS are read, and what else is known.

    kinds: of every attack in the records. certificates: as described in `otad_ray.evaluation.bracket.certified`.
    net_records: of the undefended net, under the same attacks. unbounded_eps: by norm, a budget at which nothing can be
    robust. doubled: pairs of an attack and the same attack with twice the iterations. clean: of `clean_records`.

    Raises InputError for an attack without a kind.
    """

    records: pa.Table
    kinds: Mapping[str, AttackKind]
    certificates: pa.Table | None = None
    net_records: pa.Table | None = None
    unbounded_eps: Mapping[str, float] = field(default_factory=dict)
    doubled: tuple[tuple[str, str], ...] = ()
    clean: pa.Table | None = None

    def __post_init__(self) -> None:
        for attack in self.records["attack"].unique().to_pylist():
            kind = self.kinds.get(attack)
            if kind not in get_args(AttackKind):
                raise InputError(
                    f"kind of attack {attack!r} is {kind!r}, need one of {', '.join(get_args(AttackKind))}"
                )

    @cached_property
    def regression(self) -> bool:
        return pa.types.is_floating(self.records["label"].type)

    @cached_property
    def outcomes(self) -> tuple[AttackOutcome, ...]:
        return attack_outcomes(self.records)

    @cached_property
    def net_outcomes(self) -> tuple[AttackOutcome, ...]:
        return () if self.net_records is None else attack_outcomes(self.net_records)

    @property
    def early_stop(self) -> bool:
        """Whether samples were skipped once broken: then an attack's records are not its own doing."""
        return bool(has_status(self.records, RecordStatus.SKIPPED).any())

    def of_kind(self, kind: AttackKind) -> list[AttackOutcome]:
        return [outcome for outcome in self.outcomes if self.kinds[outcome.attack] == kind]


def describe_place(outcome: AttackOutcome) -> str:
    """Return the attack and its budget, for messages."""
    return f"{outcome.attack} at {outcome.norm} eps {outcome.eps:g}"


def format_flags(flags: Iterable[Flag]) -> list[str]:
    """Return a line for each flag, for tables."""
    return [f"  {flag.severity.upper()} {flag.name}: {flag.message}" for flag in flags]
