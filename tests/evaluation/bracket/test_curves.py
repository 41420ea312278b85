"""Both sides of the bracket over the radius: at every radius what the bracket itself says there."""

from math import sqrt

import numpy as np
import pyarrow as pa
import pytest

from helpers.planted import certificates, rows
from otad_ray.evaluation import compute_bracket, compute_curves
from otad_ray.evaluation.bracket.certified import find_certified

RIGHT = np.array([1, 1, 1, 1, 0], dtype=bool)
RADII = np.array([0.0, 0.3, 0.5, np.inf, 0.9])
LENGTHS = np.array([0.2, 0.4, 0.8, 1.0, 1.0])


def plant(norm: str) -> pa.Table:
    robust = [0, 0, 0, 1, 1]
    return rows("pgd", 1.0, robust, norm=norm, right=RIGHT, **{norm: LENGTHS})


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_curves_pass_through_the_bracket(norm: str) -> None:
    records, clean = plant(norm), certificates(RADII, right=RIGHT)
    curves = compute_curves(records, clean, norm=norm, dimension=4, eps=[1.0], certified=True)
    assert curves.certified is not None
    assert curves.radii[0] == 0.0
    assert curves.radii[-1] == 1.0
    ids = np.arange(5)
    for radius, certified, worst in zip(curves.radii, curves.certified, curves.worst_case, strict=True):
        assert certified == find_certified(clean, ids, radius, norm, 4).mean()
        assert worst == pytest.approx((RIGHT & ((radius * (1 + 1e-6) < LENGTHS) | (ids == 3))).mean())
        assert certified <= worst
    (budget,) = compute_bracket(records, dimension=4, certificates=clean).budgets
    assert curves.worst_case[-1] == budget.worst_case.value
    assert curves.certified[-1] == budget.certified.value


def test_own_proof_in_linf_counts_where_it_reaches_farther() -> None:
    clean = certificates(RADII, right=RIGHT).append_column("linf_radius", pa.array([0.7, 0.0, 0.0, 0.0, 0.0]))
    curves = compute_curves(plant("linf"), clean, norm="linf", dimension=4, eps=[1.0], certified=True)
    expected = [find_certified(clean, np.arange(5), radius, "linf", 4).mean() for radius in curves.radii]
    assert list(curves.certified or ()) == expected
    assert 0.5 / sqrt(4) < 0.7


def test_number_of_points_does_not_grow_with_the_samples() -> None:
    count = 3000
    records = rows("pgd", 1.0, np.zeros(count), l2=np.linspace(0.1, 1, count))
    curves = compute_curves(
        records, certificates(np.zeros(count)), norm="l2", dimension=4, eps=[0.3, 1.0], certified=False
    )
    assert curves.certified is None
    assert len(curves.radii) == len(curves.worst_case) <= 203
    assert {0.3, 1.0} <= set(curves.radii)
