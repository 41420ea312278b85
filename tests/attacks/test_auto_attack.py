"""AutoAttack as the library's own, on samples of any shape, without a trace in the process's generators."""

import pytest
import torch
from pyautoattack import AutoAttack as Library
from torch import Tensor, nn

from helpers.nets import BOUNDS, Counted, Rounded, Trained, TwoClasses, accuracy, wilson_interval
from otad_ray.attacks import AutoAttack, Budget, Streams, perturbation_norm
from otad_ray.errors import InputError


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.06)])
def test_agrees_with_the_library(trained: Trained, norm: str, eps: float) -> None:
    x, y = trained.x[:150], trained.y[:150]
    library = Library(trained.net, norm={"l2": "L2", "linf": "Linf"}[norm], eps=eps, seed=0)
    with torch.random.fork_rng():
        reference, _ = library.run_standard_evaluation(x, y, batch_size=150)
    counted = Counted(trained.net)
    result = AutoAttack()(counted, x, y, Budget(eps=eps, norm=norm, bounds=BOUNDS), Streams.of(0, range(150)))
    least, most = wilson_interval(accuracy(trained.net, reference, y), 150)
    assert least < accuracy(trained.net, result.x_adv, y) < most
    assert perturbation_norm(result.x_adv.double() - x.double(), norm).max() <= eps
    # Rounded up to whole queries a sample.
    assert counted.rows <= int(result.queries.sum()) <= counted.rows + 150


@pytest.mark.slow
def test_no_sample_costs_more_than_stated_and_zero_gradients_leave_square(trained: Trained) -> None:
    x, y = trained.x[:4], trained.y[:4]
    robust = AutoAttack()(trained.net, x, y, Budget(eps=1e-4, bounds=BOUNDS), Streams.of(0, range(4)))
    cost = AutoAttack().cost
    assert robust.queries.tolist() == [cost.forwards + cost.gradients] * 4
    assert robust.gradient_queries.tolist() == [cost.gradients] * 4
    masked = Rounded(trained.net)
    result = AutoAttack()(masked, x, y, Budget(eps=1.0, bounds=BOUNDS), Streams.of(0, range(4)))
    assert (result.zero_gradient_share == 1).all()
    assert accuracy(masked, result.x_adv, y) < 0.5


@pytest.mark.parametrize("shape", [(64,), (1, 1, 64), (1, 8, 8), (4, 4, 4), (64, 1, 1)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_any_shape(trained: Trained, shape: tuple[int, ...], norm: str) -> None:
    x, y = trained.x[:20].view(-1, *shape), trained.y[:20]
    net, eps = nn.Sequential(nn.Flatten(), *trained.net), {"l2": 2.0, "linf": 0.3}[norm]
    before = torch.random.get_rng_state()
    result = AutoAttack()(net, x, y, Budget(eps=eps, norm=norm, bounds=BOUNDS), Streams.of(0, range(20)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert result.x_adv.shape == x.shape
    assert accuracy(net, result.x_adv, y) == 0
    assert perturbation_norm(result.x_adv.double() - x.double(), norm).max() <= eps
    again = AutoAttack()(net, x, y, Budget(eps=eps, norm=norm, bounds=BOUNDS), Streams.of(0, range(20)))
    assert torch.equal(again.x_adv, result.x_adv)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2,), (13,), (1, 14, 14), (2, 18, 9), (3, 5, 30)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_every_part_runs_on_two_classes_of_any_shape(shape: tuple[int, ...], norm: str) -> None:
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(x[0].numel(), generator=torch.Generator().manual_seed(1))
    # Too far from the boundary to be broken: all parts are run to their end.
    net = TwoClasses(weight, bias=100.0)
    y = torch.ones(3, dtype=torch.int64)
    result = AutoAttack()(net, x, y, Budget(eps=0.1, norm=norm, bounds=BOUNDS), Streams.of(0, range(3)))
    assert torch.equal(result.x_adv, x)
    assert result.queries.min() > 5000


def test_clean_errors_and_failing_rows_are_not_attacked(trained: Trained) -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = trained.net(x)
            # A row that is not a number beyond a plane, and so is its gradient.
            return logits * torch.where(x.flatten(1)[:, 20] > 0.9, torch.nan, 1.0).unsqueeze(1)

    x, y = trained.x[:20], trained.y[:20].clone()
    y[0] = (y[0] + 1) % 10
    result = AutoAttack()(Failing(), x, y, Budget(eps=2.0, bounds=BOUNDS), Streams.of(0, range(20)))
    skipped = (x.flatten(1)[:, 20] > 0.9) | (trained.net(x).argmax(1) != y)
    assert 1 < skipped.sum() < 20
    assert (result.queries[skipped] == 1).all()
    assert torch.equal(result.x_adv[skipped], x[skipped])
    assert result.x_adv.isfinite().all()
    assert (result.queries[~skipped] > 100).all()


def test_refusals(trained: Trained) -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return trained.net(x)

    x, y, streams = trained.x[:3], trained.y[:3], Streams.of(0, range(3))
    with pytest.raises(InputError, match="have none with respect to its inputs"):
        AutoAttack()(Opaque(), x, y, Budget(eps=0.1, bounds=BOUNDS), streams)
    for bounds in (None, (0.0, 255.0)):
        with pytest.raises(InputError, match=r"clips inputs to \[0, 1\]"):
            AutoAttack()(trained.net, x, y, Budget(eps=0.1, bounds=bounds), streams)
    with pytest.raises(InputError, match="classification only"):
        AutoAttack()(trained.net, x, y.float(), Budget(eps=0.1, bounds=BOUNDS), streams)
