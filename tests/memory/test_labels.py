"""Label rows: what they say can be checked against the memory alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from helpers.memories import build_memory
from otad_ray.cip import Regularity, integrate
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, label_features, label_rows, label_schema


@pytest.fixture
def memory(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(80, 6, generator=generator)
    points[11] = points[10]  # neighbors at one point, with different features
    features = points + 0.3 * torch.rand(80, 6, generator=generator)
    return build_memory(tmp_path / "memory", points, features=features)


def test_rows_say_the_feature(memory) -> None:
    config = IntegrationConfig(num_neighbors=5, regularity=Regularity(smoothness=2.0, strong_convexity=-0.4))
    positions = np.array([3, 50, 7])
    table = label_rows(memory, positions, config, dense=True)
    assert table.schema == label_schema(5, 6, dense=True)
    assert table["id"].to_pylist() == [103, 150, 107]
    for position, row in zip(positions, table.to_pylist(), strict=True):
        assert row["id"] not in row["neighbor_ids"]
        neighbors = torch.tensor(row["neighbor_ids"]) - 100
        query = memory.points[position]
        solution = integrate(
            query[None], memory.points[neighbors][None], memory.features[neighbors][None], config.regularity
        )
        np.testing.assert_allclose(row["weights"], solution.weights[0], atol=1e-6)
        np.testing.assert_allclose(row["potentials"], solution.potentials[0])
        centers = memory.features[neighbors] - 0.4 * (query - memory.points[neighbors])
        np.testing.assert_allclose(row["feature"], torch.tensor(row["weights"]) @ centers, atol=1e-5)
        assert row["solver"] == "dual"
        assert row["status"] in ("solved", "relaxed")
        assert (row["relaxations"] > 0) == (row["status"] == "relaxed")


def test_coinciding_neighbors_with_different_features_have_a_status(memory) -> None:
    table = label_rows(memory, np.arange(80), IntegrationConfig(num_neighbors=10))
    for row in table.to_pylist():
        both = {110, 111} <= set(row["neighbor_ids"])
        assert (row["status"] == "infeasible") == both
        if both:
            np.testing.assert_allclose(row["weights"], 0.1)
    assert "infeasible" in table["status"].to_pylist()


def test_solver_and_search_do_not_change_the_columns(memory) -> None:
    positions = np.arange(6)
    exact = label_rows(memory, positions, IntegrationConfig(num_neighbors=5))
    conic = label_rows(memory, positions, IntegrationConfig(num_neighbors=5, solver="clarabel"))
    assert conic.schema == exact.schema
    assert conic["neighbor_ids"] == exact["neighbor_ids"]
    assert set(conic["solver"].to_pylist()) == {"clarabel"}
    np.testing.assert_allclose(conic["value"], exact["value"], rtol=1e-6)
    assert isinstance(exact, pa.Table)


def test_config_refuses() -> None:
    with pytest.raises(InputError, match="need neighbors >= 1, got 0"):
        IntegrationConfig(num_neighbors=0)
    with pytest.raises(InputError, match="known: theory, released"):
        IntegrationConfig(cross_term="paper")  # type: ignore[arg-type]


@pytest.mark.parametrize("cross_term", ["theory", "released"])
def test_features_follow_from_weights_at_the_regularity_asked_for(memory, cross_term: str) -> None:
    regularity = Regularity(smoothness=1.2, strong_convexity=-0.3)
    config = IntegrationConfig(num_neighbors=5, regularity=regularity, cross_term=cross_term)  # type: ignore[arg-type]
    table = label_rows(memory, np.arange(60), config, dense=True)
    assert {"solved", "relaxed"} <= set(table["status"].to_pylist())
    dense = table["feature"].combine_chunks().flatten().to_numpy().reshape(60, 6)
    np.testing.assert_allclose(label_features(memory, table, config), dense, atol=1e-5)
    stranger = table.set_column(0, "id", [np.arange(60)])
    with pytest.raises(InputError, match="does not hold"):
        label_features(memory, stranger, config)
