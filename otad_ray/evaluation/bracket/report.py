"""Robust accuracy of a defense as a bracket: certified <= truth <= worst case over all attacks."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.defenses.baselines import PROBABILISTIC
from otad_ray.evaluation.bracket.attack_outcomes import AttackOutcome, attack_outcomes, has_status, read_flags
from otad_ray.evaluation.bracket.certified import broken_certificates, find_certified
from otad_ray.evaluation.bracket.proportions import Proportion
from otad_ray.evaluation.records.schema import METRIC_COLUMNS, RecordStatus
from otad_ray.evaluation.records.verification import EPS_TOLERANCE

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class AttackSummary:
    """One attack at one budget, on the samples that it ran on.

    robust: right and not broken, of the samples that were evaluated.
    statuses: rows by status. unsolved: share of rows whose solver gave no answer.
    queries_mean, queries_median, gradient_queries_mean: per row that was attacked.
    perturbation, success_perturbation: quantiles 0, 25, 50, 75, 100 % of the attack's norm over verified examples, and
        over those that succeeded.
    zero_gradient_share: mean, over rows whose attack asked for gradients.
    lipschitz_max, lipschitz_median: of the feature's empirical local Lipschitz constant `|f(x') - f(x)|_2 / l2`.
    None: there is nothing to measure.
    """

    attack: str
    norm: str
    eps: float
    robust: Proportion
    statuses: dict[str, int]
    unsolved: float
    queries_mean: float | None
    queries_median: float | None
    gradient_queries_mean: float | None
    perturbation: tuple[float, ...] | None
    success_perturbation: tuple[float, ...] | None
    zero_gradient_share: float | None
    lipschitz_max: float | None
    lipschitz_median: float | None


@dataclass(frozen=True, kw_only=True)
class BudgetResult:
    """The bracket at one budget, over the samples that any attack ran on at it.

    certified: right and proven robust; None without certificates. worst_case: robust against every attack of the norm.
    common: the worst case on the samples that all of its attacks evaluated; attacks: their number.
    unevaluated: samples that worst_case counts as broken for no better reason than that an attack raised an error.
    unsolved: samples for which the defense gave no answer under some attack; never robust.
    """

    norm: str
    eps: float
    certified: Proportion | None
    worst_case: Proportion
    common: Proportion
    attacks: int
    unevaluated: int
    unsolved: int


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A classifier under attack.

    standard: accuracy without an attack. attacks, budgets: ordered by norm, attack, eps and by norm, eps.
    broken_certificates: ids of samples whose certificate an example refutes. early_stop: samples were skipped once
        broken, so an attack's numbers contain those of the attacks before it.
    lipschitz_max, lipschitz_median: as of an attack, over all records. relative_error: mean RE where it was given.
    probabilistic: what certificates say that hold with a probability only; None for proofs.
    """

    standard: Proportion
    attacks: tuple[AttackSummary, ...]
    budgets: tuple[BudgetResult, ...]
    broken_certificates: tuple[int, ...]
    early_stop: bool
    lipschitz_max: float | None
    lipschitz_median: float | None
    relative_error: float | None
    probabilistic: str | None = None


def compute_bracket(
    records: pa.Table,
    *,
    dimension: int,
    certificates: pa.Table | None = None,
    relative_error: float | None = None,
) -> Bracket:
    """Report from the records of one classifier, of which METRIC_COLUMNS are read.

    dimension: values of a sample. certificates: as described in `otad_ray.evaluation.bracket.certified`.
    """
    records = records.select(METRIC_COLUMNS)
    outcomes = attack_outcomes(records)
    known = ~has_status(records, RecordStatus.ATTACK_ERROR)
    ids, sample = np.unique(records["id"].to_numpy()[known], return_inverse=True)
    right = np.ones(len(ids), dtype=bool)
    np.logical_and.at(right, sample, read_flags(records, "clean_correct")[known])
    lipschitz = _lipschitz(records)
    budgets = sorted({(outcome.norm, outcome.eps) for outcome in outcomes})
    distances = {norm: breaking_distances(records, norm) for norm, _ in budgets}
    return Bracket(
        standard=Proportion.of(right),
        attacks=tuple(_attack_result(outcome) for outcome in outcomes),
        budgets=tuple(
            _budget_result(
                [outcome for outcome in outcomes if (outcome.norm, outcome.eps) == (norm, eps)],
                distances[norm],
                certificates,
                dimension,
            )
            for norm, eps in budgets
        ),
        broken_certificates=() if certificates is None else broken_certificates(records, certificates),
        early_stop=bool(has_status(records, RecordStatus.SKIPPED).any()),
        lipschitz_max=lipschitz[0],
        lipschitz_median=lipschitz[1],
        relative_error=relative_error,
        probabilistic=None if certificates is None else _find_probabilistic(certificates),
    )


def _find_probabilistic(certificates: pa.Table) -> str | None:
    """Return the method of certificates that hold with a probability only; None if there is none."""
    methods = (method for method in certificates["method"].unique().to_pylist() if method.startswith(PROBABILISTIC))
    return next(methods, None)


def breaking_distances(records: pa.Table, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) ascending of samples with records of a norm, and the least perturbation known to break each (n,).

    0 for a clean error, inf if nothing broke it. An example counts by its own norm, not by the budget it was asked for,
    so at every larger budget too; a skipped sample counts by its budget.
    """
    rows = records.filter(pc.equal(records["norm"], norm))
    ids, sample = np.unique(rows["id"].to_numpy(), return_inverse=True)
    known = ~has_status(rows, RecordStatus.ATTACK_ERROR)
    # Without a budget, a skipped sample is broken at some distance: a finite one.
    budgets = np.minimum(rows["eps"].to_numpy(), np.finfo(np.float64).max)
    reach = np.where(has_status(rows, RecordStatus.SKIPPED), budgets, rows[norm].to_numpy())
    reach = np.where(read_flags(rows, "broken"), reach, np.inf)
    reach = np.where(known & ~read_flags(rows, "clean_correct"), 0.0, reach)
    distances = np.full(len(ids), np.inf)
    np.minimum.at(distances, sample, reach)
    return ids, distances


def is_robust(distances: np.ndarray, eps: float) -> np.ndarray:
    """(n,) bool: samples that nothing known of norm eps (1 + 1e-6) breaks; distances (n,) of `breaking_distances`."""
    return (distances > eps * (1 + EPS_TOLERANCE)) | np.isinf(distances)


def _budget_result(
    outcomes: list[AttackOutcome],
    distances: tuple[np.ndarray, np.ndarray],
    certificates: pa.Table | None,
    dimension: int,
) -> BudgetResult:
    norm, eps = outcomes[0].norm, outcomes[0].eps
    ids = np.unique(np.concatenate([outcome.rows["id"].to_numpy() for outcome in outcomes]))
    unbroken = is_robust(distances[1][np.searchsorted(distances[0], ids)], eps)
    failed = np.isin(ids, _ids_of(outcomes, RecordStatus.ATTACK_ERROR))
    evaluations = np.zeros(len(ids), dtype=np.int64)
    for outcome in outcomes:
        evaluations[np.searchsorted(ids, outcome.ids)] += 1
    return BudgetResult(
        norm=norm,
        eps=eps,
        certified=None
        if certificates is None
        else Proportion.of(find_certified(certificates, ids, eps, norm, dimension)),
        worst_case=Proportion.of(unbroken & ~failed),
        common=Proportion.of((unbroken & ~failed)[evaluations == len(outcomes)]),
        attacks=len(outcomes),
        unevaluated=int((unbroken & failed).sum()),
        unsolved=len(_ids_of(outcomes, RecordStatus.UNSOLVED)),
    )


def _ids_of(outcomes: list[AttackOutcome], status: RecordStatus) -> np.ndarray:
    parts = [outcome.rows["id"].to_numpy()[has_status(outcome.rows, status)] for outcome in outcomes]
    return np.unique(np.concatenate(parts))


def _attack_result(outcome: AttackOutcome) -> AttackSummary:
    rows = outcome.rows
    verified = has_status(rows, RecordStatus.OK)
    attacked = ~has_status(rows, RecordStatus.ATTACK_ERROR) & ~has_status(rows, RecordStatus.SKIPPED)
    lengths, success = rows[outcome.norm].to_numpy(), read_flags(rows, "success")
    queries, gradients = (rows[name].to_numpy()[attacked] for name in ("queries", "gradient_queries"))
    zero_gradients = rows["zero_gradient_share"].to_numpy()
    lipschitz = _lipschitz(rows)
    return AttackSummary(
        attack=outcome.attack,
        norm=outcome.norm,
        eps=outcome.eps,
        robust=Proportion.of(outcome.robust),
        statuses=dict(sorted(Counter(rows["status"].to_pylist()).items())),
        unsolved=float(has_status(rows, RecordStatus.UNSOLVED).mean()),
        queries_mean=_mean(queries),
        queries_median=float(np.median(queries)) if len(queries) else None,
        gradient_queries_mean=_mean(gradients),
        perturbation=_quantiles(lengths[verified]),
        success_perturbation=_quantiles(lengths[success]),
        zero_gradient_share=_mean(zero_gradients[np.isfinite(zero_gradients)]),
        lipschitz_max=lipschitz[0],
        lipschitz_median=lipschitz[1],
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _quantiles(values: np.ndarray) -> tuple[float, ...] | None:
    return tuple(np.quantile(values, _QUANTILES).tolist()) if len(values) else None


def _lipschitz(rows: pa.Table) -> tuple[float | None, float | None]:
    """Largest and median quotient of the feature's and the input's l2 distances, where the input moved."""
    moved, distances = rows["l2"].to_numpy(), rows["feature_distance"].to_numpy()
    # NaN compares as false: rows without an example or a feature.
    usable = (moved > 0) & (moved < np.inf) & (distances >= 0)
    quotients = distances[usable] / moved[usable]
    return (float(quotients.max()), float(np.median(quotients))) if len(quotients) else (None, None)
