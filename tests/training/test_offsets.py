"""Training of a potential's offsets: what it widens, and what it leaves as it is."""

import pytest
import torch

from otad_ray.cip import Pieces, fit_potentials, integrate_globally, make_pieces
from otad_ray.cip.global_program import find_neighbors
from otad_ray.errors import InputError
from otad_ray.models import LinearMargins
from otad_ray.training import OffsetTrainingConfig, train_offsets
from otad_ray.training.offsets import measure_depths

SMOOTHNESS = 2.0
HEAD = LinearMargins(weight=torch.eye(3, 6), bias=torch.zeros(3), sizes=torch.ones(3), terms=6)


def problem() -> tuple[Pieces, torch.Tensor, torch.Tensor]:
    """Three overlapping clouds, with features that are noisy classes: pieces, points and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    points = 1.5 * torch.eye(3, 6)[labels] + 0.5 * torch.randn(300, 6, generator=generator)
    features = points + torch.eye(3, 6)[labels]
    potentials = fit_potentials(points, features, find_neighbors(points, 8))
    return make_pieces(points, features, potentials, SMOOTHNESS), points, labels


def depths_without_own(pieces: Pieces, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(len(points))
    feature = integrate_globally(points, pieces, SMOOTHNESS, exclude=rows).feature
    return measure_depths(feature.double(), labels, HEAD)


def test_margins_without_the_own_piece_grow() -> None:
    pieces, points, labels = problem()
    config = OffsetTrainingConfig(rows=300, epochs=4, batch_size=50, learning_rate=2.0, radius=0.8)
    trained = train_offsets(pieces, points, labels, HEAD, SMOOTHNESS, config)
    before, after = (depths_without_own(item, points, labels) / SMOOTHNESS for item in (pieces, trained))
    shortfalls = [(0.8 - item).clamp_min(0).mean() for item in (before, after)]
    assert shortfalls[1] < 0.98 * shortfalls[0]
    assert trained.features is pieces.features
    assert not torch.equal(trained.offsets, pieces.offsets)


def test_it_can_be_repeated_and_leaves_its_input_alone() -> None:
    pieces, points, labels = problem()
    before = pieces.offsets.clone()
    config = OffsetTrainingConfig(rows=64, batch_size=32)
    first, second = (train_offsets(pieces, points, labels, HEAD, SMOOTHNESS, config) for _ in range(2))
    assert torch.equal(first.offsets, second.offsets)
    assert torch.equal(pieces.offsets, before)


def test_depths_are_distances_to_the_border_of_the_class() -> None:
    features = torch.tensor([[3.0, 1, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0]], dtype=torch.float64)
    found = measure_depths(features, torch.tensor([0, 0]), HEAD)
    torch.testing.assert_close(found, torch.tensor([2, -2], dtype=torch.float64) / 2**0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": -1}, r"offset_training\.rows >= 0, got -1"),
        ({"epochs": 0}, r"offset_training\.epochs >= 1"),
        ({"learning_rate": 0.0}, r"offset_training\.learning_rate > 0"),
        ({"radius": float("nan")}, r"offset_training\.radius > 0"),
    ],
)
def test_refuses_bad_settings(fields: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OffsetTrainingConfig(**fields)
