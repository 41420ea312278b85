"""The sketch: its bound holds whatever rounding does, it finds what brute force finds, and it prunes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from otad_ray.memory import NeighborMemory
from otad_ray.memory.search import BruteForce
from otad_ray.memory.sketch import Sketch, SketchSearch, read_sketch, smallest, write_sketch

PRODUCTS = [torch.float32, torch.bfloat16]


def decaying(count: int, dimension: int, *, center: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Points whose variance lies in a few directions, as that of images does."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator)).Q
    spread = 0.97 ** torch.arange(dimension)
    return center + (torch.randn(count, dimension, generator=generator) * spread) @ rotation


def sketch_of(directory: Path, keys: torch.Tensor) -> Sketch:
    return read_sketch(directory, write_sketch(directory, keys.numpy()), "cpu")


@pytest.fixture(params=PRODUCTS, ids=str)
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otad_ray.memory.sketch._multiplied_dtype", lambda device: request.param)


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize(
    "keys",
    [
        decaying(900, 300),
        decaying(900, 300, center=500.0),
        decaying(600, 40),
        1 + 1e-4 * decaying(900, 300),
        1e-22 * decaying(300, 20),
        1e15 * decaying(300, 20),
        torch.ones(200, 10),
    ],
    ids=["plain", "far from the origin", "narrow", "close together", "tiny", "huge", "all the same"],
)
@pytest.mark.parametrize("count", [1, 150])
def test_no_key_lies_below_its_bound(tmp_path: Path, keys: torch.Tensor, count: int) -> None:
    queries = torch.cat([keys[:20], keys[:20] + 0.3 * keys.std(), keys[20:40] * 1.001])
    positions, bounds = SketchSearch(sketch_of(tmp_path, keys)).nearest(queries, count)
    distances = (queries.double().unsqueeze(1) - keys.double()).square().sum(2).sqrt()
    left_out = distances.scatter(1, positions, torch.inf)
    assert positions.sort(1).values.diff(dim=1).gt(0).all()
    assert (left_out.amin(1) >= bounds[:, -1]).all()
    assert (distances.gather(1, positions) >= bounds).all()
    assert (bounds.diff(dim=1) >= 0).all()
    assert (bounds >= 0).all()


def test_the_bound_is_tight_enough_to_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = decaying(5000, 400)
    batches = keys.split(1000)
    memory = NeighborMemory.build(
        tmp_path / "memory", None, batches, batches, torch.zeros(5000).split(1000), torch.arange(5000).split(1000)
    )
    monkeypatch.setattr(BruteForce, "nearest", lambda *_: pytest.fail("pruning should have sufficed"))
    index, _ = memory.search(keys[:50] + 0.01, 10)
    expected = torch.cdist(keys[:50].double() + 0.01, keys.double()).argsort(1)[:, :10]
    assert torch.equal(index, expected)


def test_where_nothing_can_be_pruned_brute_force_answers(tmp_path: Path) -> None:
    keys = torch.randn(3000, 600, generator=torch.Generator().manual_seed(1))
    batches = keys.split(1000)
    memory = NeighborMemory.build(
        tmp_path / "memory", None, batches, batches, torch.zeros(3000).split(1000), torch.arange(3000).split(1000)
    )
    queries = torch.randn(70, 600, generator=torch.Generator().manual_seed(2))
    index, distance = memory.search(queries, 10)
    nearest = torch.cdist(queries.double(), keys.double()).sort(1)
    assert torch.equal(index, nearest.indices[:, :10])
    torch.testing.assert_close(distance, nearest.values[:, :10])


def test_search_in_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = decaying(2000, 100)
    sketch = sketch_of(tmp_path, keys)
    _, whole = SketchSearch(sketch).nearest(keys[:300], 12)
    monkeypatch.setattr("otad_ray.memory.sketch._BLOCK_BYTES", 1 << 14)
    positions, bounds = SketchSearch(sketch).nearest(keys[:300], 12)
    assert torch.equal(bounds, whole)
    distances = torch.cdist(keys[:300].double(), keys.double())
    assert (distances.scatter(1, positions, torch.inf).amin(1) >= bounds[:, -1]).all()


@pytest.mark.parametrize(("size", "count"), [(5, 5), (64, 3), (1000, 10), (1003, 10), (4096, 1), (777, 300)])
def test_smallest_of_columns(size: int, count: int) -> None:
    values = torch.randint(0, 400, (size, 7), generator=torch.Generator().manual_seed(size)).float()
    found, positions = smallest(values, count)
    assert torch.equal(found, values.sort(0).values[:count].T)
    assert torch.equal(values.gather(0, positions.T).T, found)
    assert all(len(set(row)) == count for row in positions.tolist())


def test_the_sketch_of_the_same_keys_is_the_same(tmp_path: Path) -> None:
    keys = decaying(5000, 300)
    (tmp_path / "again").mkdir()
    first = sketch_of(tmp_path, keys)
    torch.manual_seed(5)
    second = sketch_of(tmp_path / "again", keys)
    assert torch.equal(first.rows.view(torch.int16), second.rows.view(torch.int16))
    np.testing.assert_array_equal(first.basis, second.basis)
