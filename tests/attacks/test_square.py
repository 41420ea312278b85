"""Square: as strong as pyautoattack's, the same whoever is attacked with it, on samples of any shape."""

import pytest
import torch
from pyautoattack.square import SquareAttack

from helpers.nets import BOUNDS, Counted, Rounded, Rows, Trained, TwoClasses, accuracy, wilson_interval
from otad_ray.attacks import PGD, Budget, Square, Streams, perturbation_norm
from otad_ray.errors import InputError


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.7), ("linf", 0.08)])
def test_is_as_strong_as_pyautoattack(trained: Trained, norm: str, eps: float) -> None:
    net, x, y = trained.net, trained.x, trained.y
    library = SquareAttack(net, norm={"l2": "L2", "linf": "Linf"}[norm], n_queries=300, eps=eps, seed=0, device="cpu")
    with torch.random.fork_rng(), torch.no_grad():
        reference = library.perturb(x, y)
    result = Square(queries=300)(net, x, y, Budget(eps=eps, norm=norm, bounds=BOUNDS), Streams.of(0, range(len(x))))
    ours, theirs = accuracy(net, result.x_adv, y), accuracy(net, reference, y)
    # Its squares never reach the last row and column (0 .. h - s - 1): of small images ours breaks more.
    assert ours < wilson_interval(theirs, len(x))[1]
    assert theirs < accuracy(net, x, y) - 0.15


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_samples_do_not_depend_on_each_other(norm: str) -> None:
    net = Rows(36)
    x = torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    budget, some = Budget(eps={"l2": 0.1, "linf": 0.02}[norm], norm=norm, bounds=BOUNDS), torch.tensor([8, 2, 5, 3])
    everyone = Square(queries=150)(net, x, y, budget, Streams.of(0, range(10)))
    few = Square(queries=150)(net, x[some], y[some], budget, Streams.of(0, some.tolist()))
    broken = net(everyone.x_adv).argmax(1) != y
    # Otherwise nobody would leave the batch early.
    assert 0 < broken.sum() < 10
    assert torch.equal(everyone.x_adv[some], few.x_adv)
    assert torch.equal(everyone.queries[some], few.queries)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("bounds", [BOUNDS, None])
@pytest.mark.parametrize(
    "shape", [(1,), (2,), (13,), (64,), (1, 1, 40), (40, 1, 1), (4, 9), (3, 5, 7), (2, 9, 4), (3, 1, 6), (2, 3, 4, 5)]
)
def test_any_shape(norm: str, bounds: tuple[float, float] | None, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, *shape, generator=generator)
    weight = torch.randn(x[0].numel(), generator=generator)
    # Two parts of three of how far a linear function can fall within the ball.
    reach = 0.3 * float(weight.norm() if norm == "l2" else weight.abs().sum())
    net = TwoClasses(weight, bias=0.67 * reach - float((x.flatten(1) @ weight).mean()))
    x = x + ((x.flatten(1) @ weight).mean() - x.flatten(1) @ weight).view(-1, *[1] * len(shape)) * (
        weight / weight.square().sum()
    ).view(shape)
    if bounds:
        x = x.clamp(*bounds)
    y = net(x).argmax(1)
    counted = Counted(net)
    budget = Budget(eps=0.3, norm=norm, bounds=bounds)
    result = Square(queries=100)(counted, x, y, budget, Streams.of(0, range(12)))
    assert result.x_adv.shape == x.shape
    assert perturbation_norm(result.x_adv.double() - x.double(), norm).max() <= 0.3
    assert int(result.queries.sum()) == counted.rows
    assert result.queries.max() <= Square(queries=100).cost.forwards
    if bounds:
        assert result.x_adv.min() >= 0
        assert result.x_adv.max() <= 1
    else:
        moved = (result.x_adv - x).flatten(1) @ weight
        assert (moved < -0.3 * reach).all()


def test_breaks_what_masks_its_gradient(trained: Trained) -> None:
    x, y = trained.x[:100], trained.y[:100]
    masked, budget = Rounded(trained.net), Budget(eps=0.7, bounds=BOUNDS)
    gradient = PGD(steps=20)(masked, x, y, budget, Streams.of(0, range(100)))
    square = Square(queries=300)(masked, x, y, budget, Streams.of(0, range(100)))
    assert accuracy(masked, square.x_adv, y) < accuracy(masked, gradient.x_adv, y) - 0.2


def test_shares_fall_as_in_the_paper() -> None:
    shares = [Square(queries=10_000).share(query) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert shares[:2] == [0.8, 0.8]
    assert shares[2:] == [0.8 / 2**halvings for halvings in range(1, 10)]
    assert Square(queries=500).share(51) == Square(queries=10_000).share(1020)


def test_impossible_settings() -> None:
    with pytest.raises(InputError, match="queries >= 1"):
        Square(queries=0)
    with pytest.raises(InputError, match="first_share"):
        Square(first_share=1.5)
