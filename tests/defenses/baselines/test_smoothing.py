"""Randomized smoothing, where the smoothed classifier is known in closed form."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binom, binomtest
from torch import Tensor, nn

from otad_ray.defenses.baselines import PROBABILISTIC, Smoothing
from otad_ray.defenses.baselines.smoothing import bound_proportion, find_majority_probability

SIGMA = 0.5


class HalfSpace(nn.Module):
    """Class 1 where the first value is above 0: its smoothed form has the same boundary."""

    config = SimpleNamespace(sigma=SIGMA)

    def forward(self, inputs: Tensor) -> Tensor:
        first = inputs.flatten(1)[:, 0]
        return torch.stack([-first, first], 1)


def make(**changes: int) -> Smoothing:
    return Smoothing(HalfSpace(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (990, 1000), (1000, 1000)])
def test_bound_is_scipys_exact_interval(successes: int, trials: int) -> None:
    exact = binomtest(successes, trials, alternative="greater").proportion_ci(0.999, method="exact").low
    assert bound_proportion(successes, trials, 0.001) == pytest.approx(exact, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("trials", [31, 32, 100])
def test_majority_is_reached_with_the_least_probability(trials: int) -> None:
    least = find_majority_probability(trials, 0.0005)
    assert binom.cdf(trials // 2, trials, least) == pytest.approx(0.0005, rel=1e-3)


def test_radius_stays_below_the_distance_to_the_boundary_and_comes_near_it() -> None:
    distances = torch.tensor([0.05, 0.3, 0.45, 0.6])
    x = torch.zeros(4, 1, 2, 2)
    x[:, 0, 0, 0] = distances
    radius, method = make(certify_draws=20_000, forward_draws=2000).certified_radius(x)
    assert bool((radius <= distances).all())
    assert bool((radius[1:] > distances[1:] - 0.12).all())
    assert all(name.startswith(PROBABILISTIC) for name in method[1:])
    # As many draws certify more.
    few, _ = make(certify_draws=200).certified_radius(x)
    assert bool((few <= radius).all())


def test_radius_is_the_same_again_and_in_another_batch() -> None:
    x = torch.rand(5, 1, 2, 2) * 0.5
    whole, _ = make().certified_radius(x)
    alone = torch.cat([make().certified_radius(row)[0] for row in x.split(1)])
    assert torch.equal(whole, alone)


def test_votes_have_the_gradient_of_the_mean_softmax() -> None:
    x = torch.full((1, 1, 2, 2), 0.1, requires_grad=True)
    logits = make()(x, torch.Generator().manual_seed(0))
    logits[0, 1].backward()
    assert float(x.grad[0, 0, 0, 0]) > 0
    assert float(x.grad[0, 0, 1].abs().max()) == 0


def test_draws_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="certify_draws >= 1, got 0"):
        make(certify_draws=0)
