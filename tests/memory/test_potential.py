"""The graph over a memory, the potentials that fit it, and the pieces that are made of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from otad_ray.cip import fit_potentials, integrate_globally
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory, PotentialConfig, fit_graph, measure_graph_rows, move_pieces

Build = Callable[[torch.Tensor, torch.Tensor], NeighborMemory]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def make(points: torch.Tensor, features: torch.Tensor) -> NeighborMemory:
        count = len(points)
        directory = tmp_path / f"memory{len(list(tmp_path.iterdir()))}"
        labels, ids = torch.zeros(count, dtype=torch.int64), 7 + torch.arange(count)
        return NeighborMemory.build(directory, None, [points], [features], [labels], [ids])

    return make


def cloud(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def test_rows_do_not_depend_on_their_shard(build: Build) -> None:
    points = cloud()
    memory, config = build(points, 1.5 * points), PotentialConfig(graph_neighbors=5, random_pairs=3)
    together = measure_graph_rows(memory, np.arange(200), config)
    parts = [measure_graph_rows(memory, part, config) for part in (np.arange(37), np.arange(37, 200))]
    assert pa.concat_tables(parts).equals(together)
    assert together["id"].to_pylist() == memory.ids.tolist()
    others = np.array(together["others"].to_pylist())
    assert others.shape == (200, 8)
    # A row is none of its own neighbors.
    assert (others[:, :5] != np.arange(200)[:, None]).all()


def test_potentials_of_a_scaling_are_exact(build: Build) -> None:
    points = cloud()
    config = PotentialConfig(graph_neighbors=5, random_pairs=3)
    fitted = fit_graph(measure_graph_rows(build(points, 1.5 * points), np.arange(200), config), config)
    expected = 0.75 * points.double().square().sum(1)
    torch.testing.assert_close(fitted.potentials, expected - expected.mean(), rtol=0, atol=1e-4)
    assert max(fitted.near_residual, fitted.far_residual) < 1e-4


def test_shards_and_the_function_of_cip_fit_the_same(build: Build) -> None:
    points = cloud()
    features = points + 0.3 * torch.sin(3 * points.flip(1))
    memory, config = build(points, features), PotentialConfig(graph_neighbors=6, random_pairs=0)
    graph = measure_graph_rows(memory, np.arange(200), config)
    near = torch.tensor(graph["others"].to_pylist())
    fitted = fit_graph(graph, config)
    expected = fit_potentials(points, features, near, num_random=0)
    torch.testing.assert_close(fitted.potentials, expected, rtol=0, atol=1e-5)
    assert fitted.near_residual > 1e-3
    assert np.isnan(fitted.far_residual)


def test_moved_pieces_move_points_by_the_share(build: Build) -> None:
    points = cloud()
    memory, config = build(points, 2 * points), PotentialConfig(smoothness=1.6, share=0.5)
    potentials = points.double().square().sum(1)
    pieces = move_pieces(memory, potentials, config)
    torch.testing.assert_close(pieces.features, 1.5 * points)
    # Half of the way from the identity to a doubling is interpolated exactly.
    found = integrate_globally(points, pieces, 1.6).feature
    torch.testing.assert_close(found, 1.5 * points, rtol=0, atol=1e-4)
    whole = move_pieces(memory, potentials, PotentialConfig(share=1.0))
    assert whole.features.data_ptr() == memory.features.data_ptr()


def test_refuses_bad_settings_and_other_potentials(build: Build) -> None:
    with pytest.raises(InputError, match=r"potential\.smoothness > 0, got 0"):
        PotentialConfig(smoothness=0)
    with pytest.raises(InputError, match=r"potential\.share > 0, got -1"):
        PotentialConfig(share=-1)
    with pytest.raises(InputError, match=r"potential\.graph_neighbors >= 1"):
        PotentialConfig(graph_neighbors=0)
    points = cloud()
    with pytest.raises(InputError, match="has 200 rows, got"):
        move_pieces(build(points, points), torch.zeros(199, dtype=torch.float64), PotentialConfig())
