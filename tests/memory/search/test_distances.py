"""Distances of pairs."""

import numpy as np
import pytest
import torch

from otad_ray.memory.search import distances
from otad_ray.memory.search.distances import measure_pairs, take_root


@pytest.mark.parametrize("dimension", [1, 15, 16, 17, 100])
def test_pairs_are_measured_in_float64(dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_BLOCK_BYTES", 200)
    generator = torch.Generator().manual_seed(0)
    keys = 1000 + torch.rand(9, dimension, generator=generator)
    queries = 1000 + torch.rand(4, dimension, generator=generator)
    positions, rows = torch.tensor([0, 8, 3, 3]), torch.tensor([1, 1, 0, 3])
    expected = np.square(keys.double().numpy()[positions] - queries.double().numpy()[rows]).sum(1)
    np.testing.assert_allclose(measure_pairs(keys, positions, queries, rows), expected, rtol=1e-14)


def test_no_pairs() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert measure_pairs(torch.zeros(2, 3), nothing, torch.zeros(1, 3), nothing).shape == (0,)


def test_roots_are_rounded_correctly() -> None:
    squares = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(take_root(squares), np.sqrt(squares.numpy()))
