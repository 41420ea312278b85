"""The attack on distances to training points: those between the keys that the memory is searched by."""

from pathlib import Path

import torch

from helpers.fragile import DIMENSION, LinearMetric, fragile_metric, knn, two_clouds
from helpers.nets import accuracy
from otad_ray.attacks import Budget, NeighborAware, Streams


def test_keys_of_a_metric_net_are_attacked(tmp_path: Path) -> None:
    defense, points = knn(tmp_path / "keys", fragile_metric()), knn(tmp_path / "points", None)
    (x, y), budget, streams = two_clouds(40, seed=1), Budget(eps=0.1), Streams.of(0, range(40))
    found = NeighborAware()(defense, x, y, budget, streams)
    assert accuracy(defense, x, y) == 1
    assert accuracy(defense, found.x_adv, y) == 0
    # A surrogate that knows the points alone goes along the first component, which moves keys little.
    assert accuracy(defense, NeighborAware()(defense, x, y, budget, streams, surrogate=points).x_adv, y) == 1


def test_keys_that_are_the_points_change_nothing(tmp_path: Path) -> None:
    (x, y), budget, streams = two_clouds(40, seed=1), Budget(eps=1.0), Streams.of(0, range(40))
    found = [
        NeighborAware()(knn(tmp_path / name, metric), x, y, budget, streams)
        for name, metric in (("points", None), ("keys", LinearMetric(torch.eye(DIMENSION))))
    ]
    assert torch.equal(found[0].x_adv, found[1].x_adv)
    assert torch.equal(found[0].queries, found[1].queries)
    assert (found[0].queries > 2).any()
