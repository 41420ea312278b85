"""The attack on the metric net: closed forms, independence of the batch, and a defense that only its keys give away."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.fragile import LinearMetric, fragile_metric, knn, two_clouds
from helpers.nets import BOUNDS, Counted, Rows, TwoClasses, accuracy
from otad_ray.attacks import Budget, MetricPGD, Noise, Streams, find_attack, perturbation_norm
from otad_ray.errors import InputError


def surrogate(metric: torch.nn.Module) -> SimpleNamespace:
    return SimpleNamespace(metric=metric)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.002, 0.3])
@pytest.mark.parametrize("attack", [MetricPGD(steps=12), MetricPGD(steps=3, restarts=1, steps_per_query=10)])
def test_budget_bounds_and_counts(attack: MetricPGD, eps: float, norm: str) -> None:
    x = torch.rand(30, 12, generator=torch.Generator().manual_seed(0))
    counted = Counted(Rows(12))
    y = counted.net(x).argmax(1)
    budget = Budget(eps=eps, norm=norm, bounds=BOUNDS)
    result = attack(counted, x, y, budget, Streams.of(0, range(30)), surrogate=surrogate(Rows(12, num_classes=3)))
    length = perturbation_norm(result.x_adv.double() - x.double(), norm)
    assert length.max() <= eps
    # Samples whose margin no iterate made smaller stay as they were.
    assert length.max() > 0.9 * eps
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert int(result.queries.sum()) == counted.rows
    assert result.queries.max() <= attack.cost.forwards
    if eps < 0.01:
        assert result.queries.max() == attack.cost.forwards
    assert attack.cost.gradients == 0


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_keys_move_as_far_as_they_can(norm: str) -> None:
    weight = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    budget, metric = Budget(eps=0.5, norm=norm), LinearMetric(weight)
    # The margin shrinks with the key on one side and grows on the other: the best iterate tells which way it went.
    net, y = TwoClasses(weight[0], bias=-1e3), torch.zeros(20, dtype=torch.int64)
    result = MetricPGD(steps=40, relative_step=8.0, restarts=8)(
        net, x, y, budget, Streams.of(0, range(20)), surrogate=surrogate(metric)
    )
    moved = (metric(result.x_adv) - metric(x)).norm(dim=1)
    most = 0.5 * float(weight.norm() if norm == "l2" else weight.abs().sum())
    torch.testing.assert_close(moved, torch.full_like(moved, most), rtol=1e-3, atol=0)
    # Random signs reach about 1 / sqrt(50) of it.
    noise = Noise(draws=1)(net, x, y, budget, Streams.of(0, range(20)))
    assert (metric(noise.x_adv) - metric(x)).norm(dim=1).mean() < 0.4 * most


def test_samples_do_not_depend_on_each_other() -> None:
    net, metric = Rows(12), Rows(12, num_classes=3)
    x = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    some, attack = torch.tensor([6, 1, 4]), MetricPGD(steps=20)
    for norm, eps in (("l2", 0.4), ("linf", 0.2)):
        budget = Budget(eps=eps, norm=norm)
        everyone = attack(net, x, y, budget, Streams.of(0, range(8)), surrogate=surrogate(metric))
        few = attack(net, x[some], y[some], budget, Streams.of(0, some.tolist()), surrogate=surrogate(metric))
        assert torch.equal(everyone.x_adv[some], few.x_adv)
        assert torch.equal(everyone.queries[some], few.queries)
        # Otherwise nobody would leave the batch early.
        assert 0 < (net(everyone.x_adv).argmax(1) != y).sum() < 8


def test_a_fragile_metric_gives_a_defense_away(tmp_path: Path) -> None:
    defense = knn(tmp_path / "memory", fragile_metric())
    (x, y), budget, streams = two_clouds(40, seed=1), Budget(eps=0.1), Streams.of(0, range(40))
    assert accuracy(defense, x, y) == 1
    assert accuracy(defense, Noise(draws=5)(defense, x, y, budget, streams).x_adv, y) == 1
    # The key goes either way, and only one leads to the other class: half of the samples break per start.
    twice = find_attack("dml_pgd")(defense, x, y, budget, streams)
    assert 0.1 < accuracy(defense, twice.x_adv, y) < 0.4
    assert accuracy(defense, MetricPGD(restarts=10)(defense, x, y, budget, streams).x_adv, y) < 0.05
    # The points themselves are far apart.
    robust = knn(tmp_path / "points", None)
    assert accuracy(robust, twice.x_adv, y) == 1


def test_errors_of_a_regressor_grow() -> None:
    class Line(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1]

    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    metric = LinearMetric(torch.eye(4)[:1])
    # What is left of a random start's other components is about exp(-relative_step).
    attack = MetricPGD(relative_step=8.0)
    result = attack(Line(), x, x[:, 0], Budget(eps=0.3), Streams.of(0, range(6)), surrogate=surrogate(metric))
    torch.testing.assert_close((result.x_adv - x)[:, 0].abs(), torch.full((6,), 0.3), rtol=1e-3, atol=0)


def test_refusals(tmp_path: Path) -> None:
    x, y = two_clouds(4, seed=1)
    for defense, known in ((TwoClasses(torch.ones(40)), None), (knn(tmp_path / "memory", None), None)):
        counted = Counted(defense)
        with pytest.raises(InputError, match=r"--metric\.architecture"):
            MetricPGD()(counted, x, y, Budget(eps=0.1), Streams.of(0, range(4)), surrogate=known or surrogate(None))
        assert counted.rows == 0
    with pytest.raises(InputError, match=r"--metric\.architecture"):
        MetricPGD()(knn(tmp_path / "own", None), x, y, Budget(eps=0.1), Streams.of(0, range(4)))
    for name in ("steps", "restarts", "steps_per_query"):
        with pytest.raises(InputError, match=f"need {name} >= 1, got 0"):
            MetricPGD(**{name: 0})
