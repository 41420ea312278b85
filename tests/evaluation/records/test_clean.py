"""Clean records: predictions, relative errors and certificates of samples as they are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from otad_ray.certification import Certificate
from otad_ray.cip import Status
from otad_ray.data import Batch
from otad_ray.defenses import KNN, Undefended
from otad_ray.evaluation import NO_PREDICTION, clean_records, relative_error
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, BackboneConfig, build_backbone


@pytest.fixture
def net() -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(num_blocks=1), shape=(12,), num_outputs=4).eval()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.arange(5) + 10, torch.rand(5, 1, 3, 4, generator=generator), torch.arange(5) % 4)


def test_predictions_errors_and_radii(net: Backbone, batch: Batch, tmp_path: Path) -> None:
    points = torch.rand(30, 12)
    with torch.no_grad():
        features = net.features(points)
    memory = NeighborMemory.build(
        tmp_path / "memory", None, [points], [features], [torch.arange(30) % 4], [torch.arange(30)]
    )
    knn = KNN(net, memory, 3)
    radius = torch.linspace(0, 1, 5, dtype=torch.float64)
    table = clean_records(knn, batch, net=net, certificate=Certificate(radius, ["", "a", "a", "b", "b"]))
    with torch.no_grad():
        logits, features, _ = knn.forward_details(batch.x)
        errors = relative_error(net.features(batch.x.flatten(1)), features)
    assert table["id"].to_pylist() == batch.ids.tolist()
    assert table["prediction"].to_pylist() == logits.argmax(1).tolist()
    assert table["clean_correct"].to_pylist() == (logits.argmax(1) == batch.y).tolist()
    np.testing.assert_allclose(table["relative_error"].to_numpy(), errors.numpy(), rtol=1e-6)
    assert table["radius"].to_pylist() == radius.tolist()
    assert table["method"].to_pylist() == ["", "a", "a", "b", "b"]
    assert table["status"].to_pylist() == ["ok"] * 5


def test_the_net_errs_nowhere_and_is_not_certified(net: Backbone, batch: Batch) -> None:
    table = clean_records(Undefended(net), batch, net=net)
    assert table["relative_error"].to_pylist() == [0.0] * 5
    assert table["radius"].to_pylist() == [0.0] * 5


def test_what_gives_no_answer_is_never_right(net: Backbone, batch: Batch) -> None:
    class Silent(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits = torch.zeros(len(inputs), 4)
            logits[:, 0] = torch.nan
            return logits

    table = clean_records(Silent(), batch, net=net)
    assert table["prediction"].to_pylist() == [NO_PREDICTION] * 5
    assert not any(table["clean_correct"].to_pylist())
    assert all(math.isnan(value) for value in table["relative_error"].to_pylist())


def test_statuses_of_the_solver(net: Backbone, batch: Batch) -> None:
    class Unsolved(Undefended):
        def forward_details(self, inputs: Tensor):
            logits, features, _ = super().forward_details(inputs)

            class Solution:
                status = torch.full((len(inputs),), int(Status.FAILED))

            return logits, features, Solution()

    table = clean_records(Unsolved(net), batch, net=net)
    assert table["status"].to_pylist() == [Status.FAILED.label] * 5
    assert table["prediction"].to_pylist() == [NO_PREDICTION] * 5
