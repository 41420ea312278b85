"""Clusters of training points, and the pieces that are means over them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from otad_ray.cip import Status, integrate_globally, make_pieces
from otad_ray.errors import InputError
from otad_ray.memory import (
    NeighborMemory,
    PotentialConfig,
    average_pieces,
    check_compression,
    cluster_points,
    move_pieces,
)

Build = Callable[..., NeighborMemory]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def make(points: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> NeighborMemory:
        directory = tmp_path / f"memory{len(list(tmp_path.iterdir()))}"
        return NeighborMemory.build(directory, None, [points], [features], [labels], [torch.arange(len(points))])

    return make


def cloud(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def classes(count: int = 200) -> torch.Tensor:
    """Three classes of different sizes, with labels that leave numbers out."""
    return torch.tensor([1, 5, 5, 9, 9, 9, 9, 9])[torch.arange(count) % 8]


def test_clusters_lie_in_a_class_and_share_it_out(build: Build) -> None:
    memory, config = build(cloud(), cloud(), classes()), PotentialConfig(pieces=16)
    clusters = cluster_points(memory, config)
    assert clusters.unique().tolist() == list(range(16))
    owners = [memory.labels[clusters == number].unique() for number in range(16)]
    assert all(len(owner) == 1 for owner in owners)
    assert torch.cat(owners).unique(return_counts=True)[1].tolist() == [3, 4, 9]
    assert torch.equal(cluster_points(memory, config), clusters)
    assert not torch.equal(cluster_points(memory, PotentialConfig(pieces=16, seed=1)), clusters)


def test_each_point_is_nearest_to_the_mean_of_its_cluster(build: Build) -> None:
    memory = build(cloud(), cloud(), torch.zeros(200, dtype=torch.int64))
    clusters = cluster_points(memory, PotentialConfig(pieces=7))
    means = torch.stack([memory.points[clusters == number].mean(0) for number in range(7)])
    assert torch.equal(torch.cdist(memory.points, means).argmin(1), clusters)


def test_points_that_coincide_share_a_cluster(build: Build) -> None:
    points = cloud(5).repeat(4, 1)
    memory = build(points, points, torch.zeros(20, dtype=torch.int64))
    clusters = cluster_points(memory, PotentialConfig(pieces=20))
    assert torch.equal(clusters[:5].sort().values, torch.arange(5))
    assert torch.equal(clusters, clusters[:5].repeat(4))


def test_targets_of_a_regression_are_one_class(build: Build) -> None:
    memory = build(cloud(), cloud(), torch.linspace(0, 1, 200))
    assert cluster_points(memory, PotentialConfig(pieces=3)).unique().tolist() == [0, 1, 2]


def test_means_of_a_scaling_are_its_pieces(build: Build) -> None:
    """Of a quadratic potential the rule of the edges gives the exact value at every mean."""
    points, config = cloud(), PotentialConfig(pieces=12, share=0.5, smoothness=1.9)
    memory = build(points, 2 * points, classes())
    clusters = cluster_points(memory, config)
    found = average_pieces(memory, points.double().square().sum(1), clusters, config)
    means = torch.stack([points[clusters == number].mean(0) for number in range(12)])
    expected = make_pieces(means, 1.5 * means, 0.75 * means.double().square().sum(1), 1.9)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.offsets, expected.offsets, rtol=0, atol=1e-5)


def test_a_piece_for_each_point_is_the_whole_potential(build: Build) -> None:
    points = cloud()
    memory = build(points, points + torch.sin(3 * points.flip(1)), classes())
    potentials, config = points.double().square().sum(1) / 2, PotentialConfig(pieces=200)
    found = average_pieces(memory, potentials, cluster_points(memory, config), config)
    query = 2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    whole, compressed = (
        integrate_globally(query, pieces, 2.0).feature for pieces in (move_pieces(memory, potentials, config), found)
    )
    torch.testing.assert_close(compressed, whole, rtol=0, atol=1e-4)


def test_the_compressed_potential_is_lipschitz(build: Build) -> None:
    points, config = cloud(), PotentialConfig(pieces=20, share=1.0, smoothness=1.5)
    memory = build(points, 3 * torch.sin(points.flip(1)), classes())
    potentials = 10 * torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pieces = average_pieces(memory, potentials, cluster_points(memory, config), config)
    steps = torch.randn(200, 4, generator=torch.Generator().manual_seed(3)).double()
    query = torch.cat([points.double(), points.double() + 1e-2 * steps])
    found = integrate_globally(query, pieces, 1.5)
    assert set(found.status.tolist()) == {Status.SOLVED}
    moved, along = ((rows[200:] - rows[:200]).norm(dim=1) for rows in (found.feature, query))
    assert (moved <= 1.5 * (1 + 1e-6) * along).all()
    assert (moved / along).max() > 0.7


def test_refuses_numbers_that_cannot_be(build: Build) -> None:
    memory = build(cloud(), cloud(), classes())
    check_compression(memory, PotentialConfig())
    for count in (2, 201):
        with pytest.raises(InputError, match=rf"pieces is {count}; .* has 200 points in 3 class"):
            check_compression(memory, PotentialConfig(pieces=count))
    with pytest.raises(InputError, match=r"potential\.pieces >= 1, got 0"):
        PotentialConfig(pieces=0)
