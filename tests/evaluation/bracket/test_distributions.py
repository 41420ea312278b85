"""Distributions of radii and relaxations, counted."""

import numpy as np
import pytest

from helpers.planted import certificates, rows
from otad_ray.evaluation import count_radii, count_relaxations


def test_radii_are_counted_by_method_without_wrong_samples_and_infinities() -> None:
    right = np.array([True, True, True, False])
    found = count_radii(certificates([0.0, 0.6, np.inf, 0.3], right=right))
    assert found is not None
    assert found.right == 3
    assert sum(found.counts["hull"]) == 2
    assert len(found.edges) == len(found.counts["hull"]) + 1
    assert found.edges[0] == 0.0
    assert found.edges[-1] == 0.6


def test_nothing_is_counted_where_nothing_is_finite() -> None:
    assert count_radii(certificates([np.inf, np.inf])) is None
    assert count_relaxations(rows("pgd", 1.0, [1, 1])) is None


def test_relaxations_are_shares_of_the_records_that_were_solved() -> None:
    found = count_relaxations(rows("pgd", 1.0, [1] * 4, clean_relaxations=[0, 0, 2, -1], relaxations=[1, 1, 1, 0]))
    assert found is not None
    assert found["clean"] == pytest.approx((2 / 3, 0, 1 / 3))
    assert found["adversarial"] == (0.25, 0.75)
