"""Nevergrad's attacks: they break nets, each sample on its own, and the unprojected one shortens perturbations."""

from math import inf

import pytest
import torch

from helpers.nets import BOUNDS, Counted, Rows, Trained, TwoClasses, accuracy
from otad_ray.attacks import Budget, NevergradCW, NevergradProjected, Streams, perturbation_norm
from otad_ray.errors import InputError

FREE = Budget(eps=inf, bounds=BOUNDS)


# In few dimensions NGOpt is another optimizer.
@pytest.mark.parametrize("dimension", [3, 20])
@pytest.mark.parametrize(
    ("attack", "budget"),
    [
        (NevergradCW(evaluations=30, sigma=0.3), FREE),
        (NevergradProjected(evaluations=30), Budget(eps=0.5, bounds=BOUNDS)),
    ],
)
def test_samples_do_not_depend_on_each_other(
    attack: NevergradCW | NevergradProjected, budget: Budget, dimension: int
) -> None:
    net = Rows(dimension)
    x = torch.rand(6, dimension, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    some = torch.tensor([4, 0, 2])
    counted = Counted(net)
    everyone = attack(counted, x, y, budget, Streams.of(0, range(6)))
    few = attack(net, x[some], y[some], budget, Streams.of(0, some.tolist()))
    assert torch.equal(everyone.x_adv[some], few.x_adv)
    assert torch.equal(everyone.x_adv[0], x[0])
    assert int(everyone.queries.sum()) == counted.rows
    assert everyone.queries[0] == 1
    assert everyone.queries.max() <= attack.cost.forwards
    assert (net(everyone.x_adv).argmax(1) != y).sum() > 1


def test_the_search_goes_on_after_success_and_shortens(trained: Trained) -> None:
    x, y = trained.x[:8], trained.y[:8]
    lengths = []
    for evaluations in (30, 120):
        result = NevergradCW(evaluations=evaluations, sigma=0.3)(trained.net, x, y, FREE, Streams.of(0, range(8)))
        attacked = trained.net(x).argmax(1) == y
        assert (result.queries[attacked] == 1 + evaluations).all()
        broken = trained.net(result.x_adv).argmax(1) != y
        lengths.append(torch.where(broken, perturbation_norm(result.x_adv - x, "l2"), 100.0))
    assert (lengths[1] < 100).sum() >= 6
    assert lengths[1].mean() < lengths[0].mean()


def test_the_projected_search_reaches_the_optimum_of_a_linear_model() -> None:
    weight = torch.tensor([3.0, -4.0])
    net, x = TwoClasses(weight, bias=10.0), torch.zeros(3, 2)
    y = torch.ones(3, dtype=torch.int64)
    result = NevergradProjected(evaluations=100)(net, x, y, Budget(eps=1.0), Streams.of(0, range(3)))
    torch.testing.assert_close(result.x_adv, (-weight / 5).expand(3, 2), rtol=0, atol=0.05)


@pytest.mark.slow
def test_the_paper_budget_breaks_an_undefended_net(trained: Trained) -> None:
    x, y = trained.x[:50], trained.y[:50]
    free = NevergradCW()(trained.net, x, y, FREE, Streams.of(0, range(50)))
    assert accuracy(trained.net, free.x_adv, y) == 0
    projected = NevergradProjected()(trained.net, x, y, Budget(eps=0.7, bounds=BOUNDS), Streams.of(0, range(50)))
    assert accuracy(trained.net, projected.x_adv, y) < 0.5


def test_impossible_settings() -> None:
    x, y = torch.zeros(1, 2), torch.ones(1, dtype=torch.int64)
    with pytest.raises(InputError, match="chooses the norm itself"):
        NevergradCW()(Rows(2), x, y, Budget(eps=1.0), Streams.of(0, [0]))
    with pytest.raises(InputError, match="finite eps"):
        NevergradProjected()(Rows(2), x, y, Budget(eps=inf), Streams.of(0, [0]))
    with pytest.raises(InputError, match="sigma"):
        NevergradCW(sigma=0.0)
    with pytest.raises(InputError, match="evaluations"):
        NevergradProjected(evaluations=0)
    with pytest.raises(InputError, match="constant"):
        NevergradCW(constant=-1.0)
