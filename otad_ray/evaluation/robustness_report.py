"""What is known of one defense under attack: its bracket, the flags, and the records that both follow from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.artifacts import replace_non_finite, to_jsonable
from otad_ray.attacks import AttackKind, Budget
from otad_ray.errors import InputError
from otad_ray.evaluation.bracket.figures import robustness_figure
from otad_ray.evaluation.bracket.regression_errors import RegressionReport, compute_regression_report
from otad_ray.evaluation.bracket.report import Bracket, compute_bracket
from otad_ray.evaluation.bracket.tables import bracket_table, regression_table
from otad_ray.evaluation.flags.checklist import find_flags
from otad_ray.evaluation.flags.flag import Evidence, Flag, format_flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pairs of attacks, the second with twice the iterations of the first.
DOUBLED = (("pgd", "pgd_200"),)


@dataclass(frozen=True, kw_only=True, eq=False)
class RobustnessReport:
    """What is known of one defense under attack. `print` shows its table and its flags.

    Attributes:
        name: name of the defense.
        norm: norm of the budgets.
        eps_unit: unit of eps, in words.
        bracket: robust accuracy between its certified and its worst-case value; of a regression, its errors.
        flags: reasons for which the numbers cannot be trusted, grave ones first.
        records: one row per sample, attack and eps, with the columns of `record_schema`.
        clean: one row per sample without an attack, with its certified radius.
        not_certified: why the defense has no certificate; None if it has one.
    """

    name: str
    norm: str
    eps_unit: str
    bracket: Bracket | RegressionReport
    flags: tuple[Flag, ...]
    records: pa.Table
    clean: pa.Table
    not_certified: str | None

    def __str__(self) -> str:
        if isinstance(self.bracket, RegressionReport):
            table = regression_table(self.name, self.bracket, norm=self.norm, eps_unit=self.eps_unit)
        else:
            table = bracket_table(self.name, self.bracket, norm=self.norm, eps_unit=self.eps_unit)
        return "\n".join([table, *format_flags(self.flags)])

    def figure(self, title: str | None = None) -> "Figure":
        """Return a figure of accuracy over eps: each attack, the worst case, the certified share, the bracket shaded.

        Args:
            title: the figure's title; None for the name of the defense.

        Raises:
            InputError: for a regression, which has no robust accuracy.
        """
        if isinstance(self.bracket, RegressionReport):
            raise InputError("a regression has no robust accuracy to draw; print the report")
        return robustness_figure(self.bracket, norm=self.norm, eps_unit=self.eps_unit, title=title or self.name)

    def to_json(self) -> str:
        """Return everything but the records as JSON; infinities and NaN become text."""
        fields = ("name", "norm", "eps_unit", "not_certified", "bracket", "flags")
        content = to_jsonable({name: getattr(self, name) for name in fields})
        return json.dumps(replace_non_finite(content), indent=2)


def build_report(
    name: str,
    records: pa.Table,
    clean: pa.Table,
    *,
    kinds: Mapping[str, AttackKind],
    norm: str,
    eps_unit: str,
    dimension: int,
    not_certified: str | None,
    net_records: pa.Table | None = None,
    sanity: Budget | None = None,
    warnings: Sequence[str] = (),
) -> RobustnessReport:
    """Compute the bracket of a defense and the flags from its records.

    Args:
        name: name of the defense.
        records: attack records, of which METRIC_COLUMNS are read.
        clean: clean records.
        kinds: the kind of every attack.
        norm: norm of the budgets.
        eps_unit: unit of eps, in words.
        dimension: values of a sample.
        not_certified: why the defense has no certificate; None if it has one.
        net_records: attack records of the undefended net, which show how strong the attacks are.
        sanity: a budget at which nothing can be robust; its records are checked, but not reported.
        warnings: what is known to speak against the defense, whatever the records say, such as a training that
            collapsed.
    """
    certificates = clean if not_certified is None else None
    evidence = Evidence(
        records=records,
        kinds=kinds,
        certificates=certificates,
        net_records=net_records,
        clean=clean,
        doubled=DOUBLED,
        unbounded_eps={} if sanity is None else {sanity.norm: sanity.eps},
    )
    reported = records if sanity is None else records.filter(pc.not_equal(records["eps"], sanity.eps))
    bracket: Bracket | RegressionReport
    if evidence.regression:
        bracket = compute_regression_report(reported)
    else:
        bracket = compute_bracket(
            reported, dimension=dimension, certificates=certificates, relative_error=_mean_relative_error(clean)
        )
    return RobustnessReport(
        name=name,
        norm=norm,
        eps_unit=eps_unit,
        bracket=bracket,
        flags=(
            *(Flag(name="known_weakness", severity="warning", message=text) for text in warnings),
            *find_flags(evidence),
        ),
        records=reported,
        clean=clean,
        not_certified=not_certified,
    )


def _mean_relative_error(clean: pa.Table) -> float | None:
    """Return the mean relative error of the samples that have one; None without any."""
    errors = clean["relative_error"].drop_null().to_numpy()
    errors = errors[np.isfinite(errors)]
    return float(errors.mean()) if len(errors) else None
