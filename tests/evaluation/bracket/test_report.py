"""Metrics of planted records against values worked out by hand, and intervals and tests against scipy."""

import json
from math import comb, inf

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from helpers.planted import certificates, first, rows
from otad_ray.artifacts import to_jsonable
from otad_ray.evaluation import (
    Proportion,
    broken_certificates,
    compute_bracket,
    compute_regression_report,
    mcnemar,
    mcnemar_less,
    regression_errors,
    wilson_interval,
)


def budget(report, eps: float, norm: str = "l2"):
    return next(result for result in report.budgets if (result.norm, result.eps) == (norm, eps))


def attack(report, name: str, eps: float = 1.0):
    return next(result for result in report.attacks if (result.attack, result.eps) == (name, eps))


@pytest.mark.parametrize(("successes", "n"), [(950, 1000), (0, 20), (20, 20), (1, 3), (416, 1000)])
def test_wilson_intervals_are_scipys(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_that_the_checklist_names() -> None:
    assert np.round(100 * np.array(wilson_interval(950, 1000)), 1).tolist() == [93.5, 96.2]
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mcnemar_is_the_sum_of_binomial_terms() -> None:
    a, b = first(9, 14), ~first(9, 14)  # 9 true of a alone, 5 of b alone
    upper = sum(comb(14, k) for k in range(9, 15)) / 2**14
    assert mcnemar_less(a, b) == pytest.approx(upper)
    assert mcnemar_less(b, a) == pytest.approx(sum(comb(14, k) for k in range(5, 15)) / 2**14)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2 * upper)
    agreeing = np.ones(500, dtype=bool)
    assert mcnemar(np.append(a, agreeing), np.append(b, agreeing)) == pytest.approx(2 * upper)
    assert mcnemar(a, a) == mcnemar_less(a, a) == 1.0


def test_the_worst_case_is_per_sample() -> None:
    right = first(9, 10)
    robust = {"pgd": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1], "square": [1, 0, 0, 1, 1, 1, 1, 1, 1, 1]}
    report = compute_bracket(
        pa.concat_tables([rows(name, 1.0, kept, right=right) for name, kept in robust.items()]), dimension=4
    )
    assert report.standard == Proportion.of(right)
    assert attack(report, "pgd").robust.value == 0.8
    assert attack(report, "square").robust.value == 0.7
    found = budget(report, 1.0)
    assert (found.worst_case.count, found.worst_case.n, found.attacks) == (6, 10, 2)
    assert (found.worst_case.low, found.worst_case.high) == wilson_interval(6, 10)
    assert found.common == found.worst_case
    assert found.certified is None
    json.dumps(to_jsonable(report), allow_nan=False)


def test_an_example_counts_at_every_budget_that_its_norm_allows() -> None:
    lengths = {"l2": [0.9, 0.4, 1.0, 1.0], "linf": [0.1] * 4}
    records = pa.concat_tables(
        [
            rows("pgd", 0.5, [1, 1, 0, 1], l2=[0.5, 0.5, 0.3, 0.5]),
            rows("pgd", 1.0, [0, 0, 1, 1], **lengths),
            rows("pgd", 2.0, [1, 1, 1, 1]),
            rows("pgd", 0.1, [1, 1, 1, 1], norm="linf"),
        ]
    )
    report = compute_bracket(records, dimension=4)
    assert [budget(report, eps).worst_case.count for eps in (0.5, 1.0, 2.0)] == [2, 1, 1]
    # The norms are kept apart.
    assert budget(report, 0.1, "linf").worst_case.count == 4
    assert [attack(report, "pgd", eps).robust.count for eps in (0.5, 1.0, 2.0)] == [3, 2, 4]


def test_an_attack_on_a_prefix_reports_its_own_samples() -> None:
    records = pa.concat_tables([rows("pgd", 1.0, first(6, 10)), rows("cw", 1.0, [1, 0, 1, 0])])
    report = compute_bracket(records, dimension=4)
    assert attack(report, "cw").robust.n == 4
    found = budget(report, 1.0)
    assert (found.worst_case.count, found.worst_case.n) == (4, 10)
    assert (found.common.count, found.common.n) == (2, 4)


def test_certified_accuracy_is_of_the_open_ball() -> None:
    records = pa.concat_tables([rows("pgd", eps, first(4, 5)) for eps in (0.0, 1.0)])
    proofs = certificates([1.0, 1.0 + 0.5e-6, 1.1, 3.0], right=np.array([True, True, True, False]))
    report = compute_bracket(records, dimension=4, certificates=proofs)
    # Norms up to 1 + 1e-6 pass as 1; the fifth sample has no certificate; a wrong one is not robust.
    assert (budget(report, 1.0).certified.count, budget(report, 1.0).certified.n) == (1, 5)
    assert budget(report, 0.0).certified.count == 3


def test_an_l2_certificate_covers_the_linf_ball_inside() -> None:
    records = rows("pgd", 0.5, first(3, 3), norm="linf")
    report = compute_bracket(records, dimension=4, certificates=certificates([0.99, 1.0, 1.01]))
    assert budget(report, 0.5, "linf").certified.count == 1


def test_exact_certificates_and_an_exact_attack_meet_at_the_truth() -> None:
    """Distances to the boundary are known: the bracket holds everywhere, and closes where both sides are exact."""
    distances = np.random.default_rng(0).exponential(1.0, 200)
    budgets = [0.25, 0.5, 1.0, 2.0]
    exact = pa.concat_tables([rows("exact", eps, distances > eps, l2=np.minimum(distances, eps)) for eps in budgets])
    for scale in (1.0, 0.5):
        report = compute_bracket(exact, dimension=2, certificates=certificates(scale * distances))
        assert report.broken_certificates == ()
        for result in report.budgets:
            truth = np.count_nonzero(distances > result.eps)
            assert result.certified.count <= truth == result.worst_case.count
            if scale == 1.0:
                assert result.certified.count == truth
    doubled = compute_bracket(exact, dimension=2, certificates=certificates(2 * distances))
    assert len(doubled.broken_certificates) == np.count_nonzero(distances <= 2.0)


def test_statuses_count_as_they_should() -> None:
    statuses = ["ok", "nan_logits", "unsolved", "invalid", "attack_error", "ok"]
    records = rows("pgd", 1.0, [1, 0, 0, 1, 0, 1], status=statuses)
    broken = pa.array([False, True, True, False, None, False])
    nothing = pa.nulls(1, pa.bool_())
    correct = pa.concat_arrays([pa.array([True] * 4), nothing, pa.array([True])])
    for name, values in {"broken": broken, "clean_correct": correct}.items():
        records = records.set_column(records.column_names.index(name), name, values)
    report = compute_bracket(records, dimension=1)
    found, result = budget(report, 1.0), attack(report, "pgd")
    assert (found.worst_case.count, found.worst_case.n) == (3, 6)
    assert (found.unevaluated, found.unsolved) == (1, 1)
    assert (found.common.count, found.common.n) == (3, 5)
    assert (result.robust.count, result.robust.n) == (3, 5)
    assert result.statuses == {"attack_error": 1, "invalid": 1, "nan_logits": 1, "ok": 2, "unsolved": 1}
    assert result.unsolved == pytest.approx(1 / 6)
    assert (report.standard.count, report.standard.n) == (5, 5)


def test_seeds_are_restarts_and_skipped_samples_are_broken() -> None:
    once, again = rows("pgd", 1.0, [1, 0, 1, 1]), rows("pgd", 1.0, [0, 1, 1, 1])
    nothing = pa.nulls(1, pa.float64())
    skipped = rows("square", 1.0, [0], success=[False], status=["skipped"], l2=nothing, linf=nothing, queries=[0])
    report = compute_bracket(pa.concat_tables([once, again, skipped]), dimension=1)
    assert attack(report, "pgd").robust.count == 2
    assert attack(report, "square").queries_mean is None
    assert report.early_stop
    unbounded = compute_bracket(pa.concat_tables([skipped.set_column(4, "eps", pa.array([inf]))]), dimension=1)
    assert budget(unbounded, inf).worst_case.count == 0


def test_measurements_of_an_attack() -> None:
    records = rows(
        "pgd",
        1.0,
        [0, 0, 1, 1],
        l2=[0.2, 0.6, 1.0, 0.0],
        feature_distance=[0.4, 0.6, 5.0, 0.0],
        queries=[10, 20, 30, 100],
        zero_gradient_share=[0.5, np.nan, 0.0, 0.1],
    )
    result = attack(compute_bracket(records, dimension=1, relative_error=0.25), "pgd")
    assert result.success_perturbation == pytest.approx((0.2, 0.3, 0.4, 0.5, 0.6))
    assert result.perturbation[2] == pytest.approx(0.4)
    assert (result.queries_mean, result.queries_median) == (40.0, 25.0)
    assert result.zero_gradient_share == pytest.approx(0.2)
    assert (result.lipschitz_max, result.lipschitz_median) == (5.0, 2.0)


def test_a_certificate_that_is_refuted_is_named() -> None:
    records = pa.concat_tables(
        [
            rows("pgd", 1.0, [0, 0, 0, 1, 0], right=[1, 1, 1, 1, 0], l2=[0.5] * 5),
            # The l2 norm counts, whatever the attack was after.
            rows("sign", 0.1, [1, 1, 0, 0, 0], norm="linf", l2=[0.2] * 5, status=["ok", "ok", "ok", "unsolved", "ok"]),
        ]
    )
    proofs = certificates([0.51, 0.5, 0.3, 0.4, 9.0], right=np.array([True, True, True, True, False]))
    assert broken_certificates(records, proofs) == (0, 2)
    assert broken_certificates(records, proofs.slice(1, 1)) == ()
    assert broken_certificates(records, proofs.slice(0, 0)) == ()
    assert compute_bracket(records, dimension=1, certificates=proofs).broken_certificates == (0, 2)


def test_regression_errors_by_hand() -> None:
    found = regression_errors(np.array([2.0, 0.0, -1.0]), np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert (found.n, found.mse, found.e) == (3, pytest.approx(9 / 3), pytest.approx(1.0))
    assert found.smape == pytest.approx((2 / 3 + 0 + 2) / 3)


def test_regression_report() -> None:
    nothing = {"regression": True, "clean_correct": pa.nulls(3, pa.bool_()), "success": pa.nulls(3, pa.bool_())}
    plain = {"label": [0.0, 0.0, 1.0], "clean_prediction": [1.0, 1.0, 1.0], **nothing}
    records = pa.concat_tables(
        [
            rows("pgd", 0.5, [1, 1, 1], prediction=[3.0, 1.0, 1.0], **plain),
            rows("pgd", 1.0, [1, 1, 0], prediction=[2.0, 2.0, np.nan], **plain),
            rows("noise", 1.0, [1, 1, 1], prediction=[1.0, 1.0, 1.0], **plain),
        ]
    )
    report = compute_regression_report(records)
    assert report.clean_mse == pytest.approx(2 / 3)
    noise, small, large = report.attacks
    assert (noise.attack, noise.errors.e, noise.without_prediction) == ("noise", 0.0, 0)
    assert small.errors.mse == pytest.approx(10 / 3)
    assert (large.errors.n, large.without_prediction) == (2, 1)
    assert [result.worst_mse for result in report.budgets] == pytest.approx([10 / 3, 13 / 3])
    json.dumps(to_jsonable(report), allow_nan=False)
