"""Budgets are kept to the last digit, and what is within them is left alone."""

from math import inf, nan

import pytest
import torch

from otad_ray.attacks import Budget, Streams, perturbation_norm
from otad_ray.errors import InputError


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("eps", [1e-4, 8 / 255, 3.0])
def test_finished_examples_are_within_the_budget(norm: str, bounds: tuple[float, float] | None, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 3, 7, 7, generator=generator)
    budget = Budget(eps=eps, norm=norm, bounds=bounds)
    moved = budget.finish(x, x + eps * torch.randn(x.shape, generator=generator))
    assert perturbation_norm(moved.double() - x.double(), norm).max() <= eps
    assert perturbation_norm(moved.double() - x.double(), norm).median() > 0.5 * min(eps, 1.0)
    if bounds:
        assert moved.min() >= 0
        assert moved.max() <= 1
    assert torch.equal(budget.finish(x, moved), moved)


def test_what_is_not_a_number_is_replaced_by_the_input() -> None:
    x = torch.rand(2, 4)
    moved = x.clone()
    moved[0, 0] = nan
    assert torch.equal(Budget(eps=1.0).finish(x, moved), x)


def test_an_infinite_budget_only_clips() -> None:
    x = torch.rand(2, 4)
    assert torch.equal(Budget(eps=inf, bounds=(0.0, 1.0)).finish(x, x + 5), torch.ones(2, 4))
    assert torch.equal(Budget(eps=inf).finish(x, x + 5), x + 5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_points_fill_the_ball(norm: str) -> None:
    x = torch.zeros(4000, 3)
    budget = Budget(eps=2.0, norm=norm)
    lengths = perturbation_norm(budget.random_point(x, Streams.of(0, range(4000))), norm)
    assert lengths.max() <= 2.0 + 1e-6
    # In three dimensions half of the ball lies beyond the cube root of a half.
    assert float((lengths > 2.0 * 0.5 ** (1 / 3)).double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("eps", [-0.1, nan])
def test_impossible_radii(eps: float) -> None:
    with pytest.raises(InputError, match="eps >= 0"):
        Budget(eps=eps)


def test_unknown_norm() -> None:
    with pytest.raises(InputError, match="l2, linf"):
        Budget(eps=1.0, norm="l1")
