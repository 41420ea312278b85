"""PGD and its relatives: closed forms on linear models, foolbox on a trained net, and what masks gradients."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers.nets import BOUNDS, Counted, Rounded, Rows, Trained, TwoClasses, accuracy, wilson_interval
from otad_ray.attacks import (
    FGSM,
    PGD,
    BackwardPassGradient,
    Budget,
    Goal,
    SmoothedGradient,
    Streams,
    Transfer,
    perturbation_norm,
)
from otad_ray.errors import InputError

WEIGHT = torch.tensor([3.0, -4.0, 0.5])
# What is left of a random start's l2 error is about exp(-relative_step) for short steps.
LONG_STEPS = PGD(steps=40, relative_step=40.0)


def streams(x: Tensor) -> Streams:
    return Streams.of(0, range(len(x)))


def farthest(x: Tensor, direction: Tensor, budget: Budget) -> Tensor:
    """Where in the ball a linear function that grows along the direction is largest."""
    step = direction.sign() if budget.norm == "linf" else direction / direction.norm()
    return x + budget.eps * step


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", [LONG_STEPS, replace(LONG_STEPS, goal=Goal("margin")), FGSM()])
def test_linear_model_closed_form(norm: str, attack: PGD | FGSM) -> None:
    # Far enough from the boundary that nothing is broken, near enough that the cross-entropy has a gradient.
    net, x = TwoClasses(WEIGHT, bias=8.0), 0.1 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    budget = Budget(eps=0.7, norm=norm)
    y = torch.ones(20, dtype=torch.int64)
    result = attack(net, x, y, budget, streams(x))
    # Around the optimum the l2 margin is flat: equal to the last digit within a thousandth.
    torch.testing.assert_close(result.x_adv, farthest(x, -WEIGHT, budget), rtol=0, atol=2e-3)
    torch.testing.assert_close(net(result.x_adv), net(farthest(x, -WEIGHT, budget)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", [LONG_STEPS, FGSM()])
def test_regression_moves_away_from_the_target(norm: str, attack: PGD | FGSM) -> None:
    class Line(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ WEIGHT).unsqueeze(1)

    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    error = torch.where(torch.arange(20) % 2 == 0, 10.0, -10.0)
    budget = Budget(eps=0.7, norm=norm)
    result = attack(Line(), x, x @ WEIGHT - error, budget, streams(x))
    expected = torch.where((error > 0).unsqueeze(1), farthest(x, WEIGHT, budget), farthest(x, -WEIGHT, budget))
    torch.testing.assert_close(result.x_adv, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(result.x_adv @ WEIGHT, expected @ WEIGHT, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.06)])
def test_agrees_with_foolbox(trained: Trained, norm: str, eps: float) -> None:
    import foolbox

    kind = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}[norm]
    model = foolbox.PyTorchModel(trained.net, bounds=BOUNDS, device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = kind(rel_stepsize=2.5 / 40, steps=40)(model, trained.x, trained.y, epsilons=eps)[1]
    result = PGD(steps=40)(
        trained.net, trained.x, trained.y, Budget(eps=eps, norm=norm, bounds=BOUNDS), streams(trained.x)
    )
    ours, theirs = (accuracy(trained.net, moved, trained.y) for moved in (result.x_adv, reference))
    least, most = wilson_interval(theirs, len(trained.x))
    assert least < ours < most
    assert 0.2 < theirs < 0.7


def test_more_steps_and_restarts_are_never_weaker_and_the_best_iterate_is_kept(trained: Trained) -> None:
    x, y = trained.x[:100], trained.y[:100]
    budget = Budget(eps=0.5, bounds=BOUNDS)
    once, often = (PGD(steps=10, restarts=restarts)(trained.net, x, y, budget, streams(x)) for restarts in (1, 3))
    margins = [margin(trained.net, moved, y) for moved in (x, once.x_adv, often.x_adv)]
    # A broken sample is left where it first broke.
    robust = margins[2] <= 0
    assert (margins[1] >= margins[0])[robust].all()
    assert (margins[2] >= margins[1])[robust].all()
    assert (margins[2] > 0).sum() >= (margins[1] > 0).sum() > (margins[0] > 0).sum()


def margin(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits = net(x)
    right = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1) - right


def test_queries_are_counted(trained: Trained) -> None:
    x, y = trained.x[:60], trained.y[:60]
    for attack in (PGD(steps=7, restarts=2), PGD(steps=7, gradient=SmoothedGradient()), FGSM()):
        for net in (trained.net, Rounded(trained.net)):
            counted = Counted(net)
            result = attack(counted, x, y, Budget(eps=0.3, bounds=BOUNDS), streams(x))
            assert int(result.queries.sum()) == counted.rows
            assert result.queries.max() <= attack.cost.forwards + attack.cost.gradients
            assert result.gradient_queries.max() <= attack.cost.gradients
            assert (result.gradient_queries <= result.queries).all()


def test_smoothed_gradients_break_steps_that_pgd_does_not(trained: Trained) -> None:
    x, y = trained.x[:100], trained.y[:100]
    masked, budget = Rounded(trained.net), Budget(eps=0.7, bounds=BOUNDS)
    exact = PGD(steps=20)(masked, x, y, budget, streams(x))
    smoothed = PGD(steps=20, gradient=SmoothedGradient())(masked, x, y, budget, streams(x))
    assert accuracy(masked, exact.x_adv, y) > accuracy(masked, x, y) - 0.1
    assert accuracy(masked, smoothed.x_adv, y) < accuracy(masked, exact.x_adv, y) - 0.2
    attacked = masked(x).argmax(1) == y
    assert (exact.zero_gradient_share[attacked] == 1).all()


def test_bpda_follows_the_net_that_stands_in(trained: Trained) -> None:
    x, y = trained.x[:100], trained.y[:100]
    masked, budget = Rounded(trained.net), Budget(eps=0.7, bounds=BOUNDS)
    surrogate = SimpleNamespace(backbone=trained.net)
    result = PGD(steps=20, gradient=BackwardPassGradient())(masked, x, y, budget, streams(x), surrogate=surrogate)
    exact = PGD(steps=20)(trained.net, x, y, budget, streams(x))
    assert accuracy(masked, result.x_adv, y) == pytest.approx(accuracy(trained.net, exact.x_adv, y), abs=0.1)
    with pytest.raises(InputError, match="undefended net"):
        PGD(gradient=BackwardPassGradient())(masked, x, y, budget, streams(x))


def test_transfer_asks_the_defense_once(trained: Trained) -> None:
    x, y = trained.x[:100], trained.y[:100]
    counted, budget = Counted(Rounded(trained.net)), Budget(eps=0.7, bounds=BOUNDS)
    surrogate = SimpleNamespace(backbone=trained.net)
    result = Transfer(steps=20)(counted, x, y, budget, streams(x), surrogate=surrogate)
    assert result.queries.tolist() == [1] * 100
    assert counted.rows == 100
    assert accuracy(counted.net, result.x_adv, y) < 0.5
    assert perturbation_norm(result.x_adv.double() - x.double(), "l2").max() <= 0.7


def test_samples_do_not_depend_on_each_other() -> None:
    net, x = Rows(12), torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    budget, some = Budget(eps=0.1), torch.tensor([6, 1, 4])
    for attack in (PGD(steps=5), PGD(steps=5, gradient=SmoothedGradient())):
        everyone = attack(net, x, y, budget, Streams.of(0, range(8)))
        few = attack(net, x[some], y[some], budget, Streams.of(0, some.tolist()))
        assert torch.equal(everyone.x_adv[some], few.x_adv)
