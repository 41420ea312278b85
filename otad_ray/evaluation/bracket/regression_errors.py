"""Errors of a regression under attack, the metrics of the paper's Table V."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.evaluation.bracket.attack_outcomes import has_status, list_groups, select_rows
from otad_ray.evaluation.records.schema import METRIC_COLUMNS, RecordStatus
from otad_ray.evaluation.records.verification import EPS_TOLERANCE


@dataclass(frozen=True)
class RegressionErrors:
    """Means over n samples with a prediction, lower is better; None without any.

    mse: `(f(x') - y)^2`. e: `|f(x') - f(x)|`. smape: `2 |f(x') - f(x)| / (|f(x')| + |f(x)|)`, 0 where both are 0.

    After Gupta, Pesquet, Pesquet-Popescu, Kaakai and Malliaros 2021, the paper's [62]; the paper itself does not define
    them. What it prints (E 0.086, SMAPE 0.319) does not fit this SMAPE on wine qualities of 3 to 8, for which it would
    be near 0.015. Compare SMAPE between runs of this code alone.
    """

    n: int
    mse: float | None
    e: float | None
    smape: float | None


@dataclass(frozen=True, kw_only=True)
class RegressionResult:
    """One attack at one budget. without_prediction: rows that gave none, left out of the errors."""

    attack: str
    norm: str
    eps: float
    errors: RegressionErrors
    without_prediction: int


@dataclass(frozen=True, kw_only=True)
class RegressionBudget:
    """worst_mse: mean over n samples of the largest squared error that any example of the norm reached within eps."""

    norm: str
    eps: float
    n: int
    worst_mse: float | None


@dataclass(frozen=True, kw_only=True)
class RegressionReport:
    """A regression under attack. clean_mse: without one; None if nothing could be evaluated."""

    clean_mse: float | None
    attacks: tuple[RegressionResult, ...]
    budgets: tuple[RegressionBudget, ...]


def compute_regression_report(records: pa.Table) -> RegressionReport:
    """Report from the records of one regression, of which METRIC_COLUMNS are read."""
    records = records.select(METRIC_COLUMNS)
    groups = list_groups(records)
    return RegressionReport(
        clean_mse=_clean_mse(records),
        attacks=tuple(_result(select_rows(records, *group), *group) for group in groups),
        budgets=tuple(_budget(records, norm, eps) for norm, eps in sorted({(norm, eps) for norm, _, eps in groups})),
    )


def regression_errors(predicted: np.ndarray, clean: np.ndarray, labels: np.ndarray) -> RegressionErrors:
    """Errors of predictions on adversarial inputs f(x') and on clean ones f(x), with labels y, all (n,) and finite."""
    if not len(predicted):
        return RegressionErrors(0, None, None, None)
    moved, size = np.abs(predicted - clean), np.abs(predicted) + np.abs(clean)
    relative = np.divide(2 * moved, size, out=np.zeros_like(moved), where=size > 0)
    squared = np.square(predicted - labels)
    return RegressionErrors(len(moved), float(squared.mean()), float(moved.mean()), float(relative.mean()))


def _result(rows: pa.Table, norm: str, attack: str, eps: float) -> RegressionResult:
    predicted, clean, labels = (rows[name].to_numpy() for name in ("prediction", "clean_prediction", "label"))
    there = np.isfinite(predicted) & np.isfinite(clean)
    return RegressionResult(
        attack=attack,
        norm=norm,
        eps=eps,
        errors=regression_errors(predicted[there], clean[there], labels[there]),
        without_prediction=int((~there).sum()),
    )


def _clean_mse(records: pa.Table) -> float | None:
    _, first = np.unique(records["id"].to_numpy(), return_index=True)
    rows = records.take(first)
    errors = np.square(rows["clean_prediction"].to_numpy() - rows["label"].to_numpy())
    errors = errors[np.isfinite(errors)]
    return float(errors.mean()) if len(errors) else None


def _budget(records: pa.Table, norm: str, eps: float) -> RegressionBudget:
    rows = records.filter(pc.equal(records["norm"], norm))
    ids, sample = np.unique(rows["id"].to_numpy(), return_inverse=True)
    squared = np.square(rows["prediction"].to_numpy() - rows["label"].to_numpy())
    within = has_status(rows, RecordStatus.OK) & (rows[norm].to_numpy() <= eps * (1 + EPS_TOLERANCE))
    usable = within & np.isfinite(squared)
    worst = np.full(len(ids), -np.inf)
    np.maximum.at(worst, sample[usable], squared[usable])
    worst = worst[np.isfinite(worst)]
    return RegressionBudget(norm=norm, eps=eps, n=len(worst), worst_mse=float(worst.mean()) if len(worst) else None)
