"""What holds for every attack: the budget, the bounds, the counts, and refusals before the first query."""

from math import inf, nan
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers.nets import BOUNDS, Counted, Trained
from otad_ray.attacks import (
    FGSM,
    PGD,
    Attack,
    BackwardPassGradient,
    Budget,
    NevergradCW,
    NevergradProjected,
    Noise,
    SmoothedGradient,
    Square,
    Streams,
    Transfer,
    perturbation_norm,
)
from otad_ray.defenses import KNN
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.models import FCNetArchitecture, FCResNet

WITHIN_BUDGET = [
    Noise(draws=3),
    FGSM(),
    PGD(steps=5),
    PGD(steps=3, gradient=SmoothedGradient()),
    PGD(steps=5, gradient=BackwardPassGradient()),
    Transfer(steps=5),
    Square(queries=40),
    NevergradProjected(evaluations=10),
]
names = [f"{type(attack).__name__}{index}" for index, attack in enumerate(WITHIN_BUDGET)]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.002, 0.3])
@pytest.mark.parametrize("attack", WITHIN_BUDGET, ids=names)
def test_budget_bounds_and_counts(trained: Trained, attack: Attack, eps: float, norm: str) -> None:
    x, y = trained.x[:30], trained.y[:30]
    counted = Counted(trained.net)
    surrogate = SimpleNamespace(backbone=trained.net)
    result = attack(
        counted, x, y, Budget(eps=eps, norm=norm, bounds=BOUNDS), Streams.of(0, range(30)), surrogate=surrogate
    )
    length = perturbation_norm(result.x_adv.double() - x.double(), norm)
    assert length.max() <= eps
    assert length.max() > 0.5 * eps
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert int(result.queries.sum()) == counted.rows
    assert result.queries.max() <= attack.cost.forwards + attack.cost.gradients
    assert torch.equal(trained.x[:30], x)


@pytest.mark.parametrize("attack", WITHIN_BUDGET, ids=names)
def test_a_broken_sample_is_returned_as_the_defense_saw_it(trained: Trained, attack: Attack) -> None:
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return trained.net(x)

    x, y = trained.x[:20], trained.y[:20]
    surrogate = SimpleNamespace(backbone=trained.net)
    result = attack(Watched(), x, y, Budget(eps=0.5, bounds=BOUNDS), Streams.of(0, range(20)), surrogate=surrogate)
    asked = torch.cat(seen).flatten(1)
    broken = trained.net(result.x_adv).argmax(1) != y
    assert broken.any()
    for example in result.x_adv[broken].flatten(1):
        assert (asked == example).all(1).any()


@pytest.mark.parametrize("attack", [*WITHIN_BUDGET, NevergradCW()], ids=[*names, "NevergradCW"])
def test_nothing_may_be_changed_at_eps_zero(trained: Trained, attack: Attack) -> None:
    counted = Counted(trained.net)
    result = attack(counted, trained.x[:3], trained.y[:3], Budget(eps=0.0), Streams.of(0, range(3)))
    assert torch.equal(result.x_adv, trained.x[:3])
    assert counted.rows == 0
    assert result.zero_gradient_share.isnan().all()


@pytest.mark.parametrize(
    "attack", [Noise(), FGSM(), PGD(steps=2), Square(queries=5), NevergradProjected(evaluations=5)]
)
def test_outputs_that_are_not_finite_count_as_broken(trained: Trained, attack: Attack) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = trained.net(x)
            logits[:, 3] = torch.where(x.flatten(1)[:, 2] > 0.5, nan, logits[:, 3])
            return logits

    x, y = trained.x[:40], trained.y[:40]
    failing = x.flatten(1)[:, 2] > 0.5
    result = attack(Broken(), x, y, Budget(eps=1e-3, bounds=BOUNDS), Streams.of(0, range(40)))
    assert failing.any()
    assert torch.equal(result.x_adv[failing], x[failing])
    assert (result.queries[failing] == 1).all()
    assert result.x_adv.isfinite().all()


@pytest.mark.parametrize("attack", WITHIN_BUDGET, ids=names)
def test_refusals(trained: Trained, attack: Attack) -> None:
    x, y, streams = trained.x[:3], trained.y[:3], Streams.of(0, range(3))
    surrogate, budget = SimpleNamespace(backbone=trained.net), Budget(eps=0.1, bounds=BOUNDS)
    with pytest.raises(InputError, match=r"outside the data set's bounds \[0.0, 1.0\]"):
        attack(trained.net, x + 0.5, y, budget, streams, surrogate=surrogate)
    with pytest.raises(InputError, match="NaN"):
        attack(trained.net, x * nan, y, budget, streams, surrogate=surrogate)
    with pytest.raises(InputError, match="agree in length"):
        attack(trained.net, x, y[:2], budget, streams, surrogate=surrogate)
    with pytest.raises(InputError, match=r"labels lie in 10 .. 10"):
        attack(trained.net, x, torch.full((3,), 10), budget, streams, surrogate=surrogate)
    with pytest.raises(InputError, match="logits"):
        attack(nn.Sequential(trained.net, nn.Flatten(0)), x, y, budget, streams, surrogate=surrogate)
    with pytest.raises(InputError, match="finite eps"):
        attack(trained.net, x, y, Budget(eps=inf), streams, surrogate=surrogate)


def test_streams_are_those_of_seed_0_by_default(trained: Trained) -> None:
    x, y, budget = trained.x[:6], trained.y[:6], Budget(eps=0.3, bounds=BOUNDS)
    attack = PGD(steps=3)
    default, named = (attack(trained.net, x, y, budget, *streams) for streams in ((), (Streams.of(0, range(6)),)))
    assert torch.equal(default.x_adv, named.x_adv)


def test_inputs_that_ask_for_a_gradient_are_left_alone(trained: Trained) -> None:
    x = trained.x[:5].clone().requires_grad_()
    result = PGD(steps=3)(trained.net, x, trained.y[:5], Budget(eps=0.5, bounds=(0.0, 1.0)), Streams.of(0, range(5)))
    assert not result.x_adv.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("attack", [Square(), NevergradProjected()])
def test_black_box_attacks_are_for_classes(trained: Trained, attack: Attack) -> None:
    with pytest.raises(InputError, match="classification only"):
        attack(trained.net, trained.x[:3], trained.y[:3].float(), Budget(eps=0.1), Streams.of(0, range(3)))


def test_a_memory_defense_is_its_own_surrogate(tmp_path, trained: Trained) -> None:
    net = FCResNet(FCNetArchitecture(dimension=64, num_outputs=10, num_blocks=1)).eval()
    points = trained.x[:50].flatten(1)
    parts = [points], [net.features(points).detach()], [trained.y[:50]], [torch.arange(50)]
    memory = NeighborMemory.build(tmp_path / "memory", None, *parts, provenance={"backbone": net.fingerprint()})
    defense = KNN(net, memory, 3)
    result = Transfer(steps=2)(
        defense, trained.x[50:55], trained.y[50:55], Budget(eps=0.1, bounds=BOUNDS), Streams.of(0, range(5))
    )
    assert result.queries.tolist() == [1] * 5
    with pytest.raises(InputError, match="undefended net"):
        Transfer()(trained.net, trained.x[:3], trained.y[:3], Budget(eps=0.1), Streams.of(0, range(3)))
