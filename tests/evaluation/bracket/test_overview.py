"""All defenses of a sweep side by side."""

from dataclasses import replace

import pyarrow as pa

from otad_ray.evaluation import overview_figure, overview_table, ranking_table
from otad_ray.evaluation.bracket.certified import broken_certificates, find_certified
from otad_ray.evaluation.bracket.per_sample import Comparison
from otad_ray.evaluation.bracket.proportions import Proportion
from otad_ray.evaluation.bracket.report import Bracket, BudgetResult


def share(value: float) -> Proportion:
    return Proportion(count=round(10 * value), n=10, value=value, low=value, high=value)


def make_bracket(certified: float | None, worst: float, probabilistic: str | None = None) -> Bracket:
    budget = BudgetResult(
        norm="l2",
        eps=1.0,
        certified=None if certified is None else share(certified),
        worst_case=share(worst),
        common=share(worst),
        attacks=1,
        unevaluated=0,
        unsolved=0,
    )
    return Bracket(
        standard=share(0.9),
        attacks=(),
        budgets=(budget, replace(budget, eps=float("inf"))),
        broken_certificates=(),
        early_stop=False,
        lipschitz_max=None,
        lipschitz_median=None,
        relative_error=None,
        probabilistic=probabilistic,
    )


BRACKETS = {
    "otad": make_bracket(0.2, 0.5),
    "net": make_bracket(None, 0.0),
    "smoothing": make_bracket(0.3, 0.7, "probabilistic: 99.9 % a sample"),
}


def test_table_shows_brackets_flags_and_what_is_probabilistic() -> None:
    text = overview_table(BRACKETS, {"net": ["weak_attack", "weak_attack"]}, norm="l2")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "20.0 to 50.0" in lines["otad"]
    assert "- to 0.0" in lines["net"]
    assert lines["net"].endswith("weak_attack")
    assert "30.0~ to 70.0" in lines["smoothing"]
    assert "~ the certificate is probabilistic" in text
    assert "inf" not in text


def test_ranking_is_by_the_worst_case_with_a_test_against_the_reference() -> None:
    comparison = Comparison(first="smoothing", second="otad", eps=1.0, first_robust=0.7, second_robust=0.5, n=8, p=0.03)
    lines = ranking_table(BRACKETS, [comparison], norm="l2", reference="otad").splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["smoothing", "otad", "net"]
    assert "p = 0.03, n = 8" in lines[2]


def test_figure_has_a_panel_for_each_finite_budget() -> None:
    figure = overview_figure(BRACKETS, norm="l2", eps_unit="pixels", title="digits")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(BRACKETS)


def test_own_linf_radius_certifies_and_can_be_refuted() -> None:
    certificates = pa.table(
        {"id": [0, 1], "radius": [0.1, 0.1], "linf_radius": [0.1, 0.0], "clean_correct": [True, True]}
    )
    ids = certificates["id"].to_numpy()
    # In l2 0.1 is no more than 0.01 in linf over 100 values.
    assert find_certified(certificates, ids, 0.05, "linf", 100).tolist() == [True, False]
    assert find_certified(certificates, ids, 0.05, "l2", 100).tolist() == [True, True]
    records = pa.table(
        {
            "id": [0, 1],
            "l2": [0.9, 0.9],
            "linf": [0.09, 0.09],
            "prediction": [1, 1],
            "clean_prediction": [0, 0],
            "clean_correct": [True, True],
            "status": ["ok", "ok"],
        }
    )
    assert broken_certificates(records, certificates) == (0,)
