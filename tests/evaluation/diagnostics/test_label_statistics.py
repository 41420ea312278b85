"""Counts over labels, and their figure."""

from collections import Counter

from otad_ray.evaluation.diagnostics.label_statistics import LabelStatistics, label_figure


def test_counts_are_labeled_with_whole_numbers_even_where_all_rows_are_alike() -> None:
    statistics = LabelStatistics(
        Counter(solved=9), Counter(dual=9), Counter({0: 9}), Counter({3: 9}), Counter({-17: 9})
    )
    for axes in label_figure(statistics, "nine labels").axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
