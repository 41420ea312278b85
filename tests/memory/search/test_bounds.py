"""Bounds on distances: they hold for every pair, whatever is rounded, and they are tight enough to be of use."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.searched_keys import KEYS, draw, draw_queries
from otad_ray.memory.search import compiled, portable, products
from otad_ray.memory.search.bounds import Bounds, SketchBounds, WholeBounds
from otad_ray.memory.search.sketch import read_sketch, write_sketch

# Everything that may have a part in a bound: small and large tails, and errors of either sign.
WIDTHS = {"all_directions": 40, "some_directions": 700}


def open_bounds(directory: Path, keys: torch.Tensor) -> Bounds:
    write_sketch(directory, keys.numpy())
    return SketchBounds(read_sketch(directory, len(keys), "cpu"))


def bound_by_compiled_passes(bounds: Bounds, queries: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds (B, N) as the compiled pass keeps them, if nothing is ruled out."""
    size = bounds.num_keys
    everything = np.full((len(queries), size), compiled.FAR, dtype=np.float32)
    found = compiled._scan(bounds, bounds.prepare(queries), everything, size, guess=False)
    assert (found.counts == size).all()
    np.testing.assert_array_equal(found.positions, np.broadcast_to(np.arange(size), found.positions.shape))
    return found.lower, found.upper


def bound_by_portable_passes(bounds: Bounds, queries: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds (B, N) as the portable pass computes them."""
    strip, rows = bounds.prepare(queries), slice(0, bounds.num_keys)
    out = torch.empty(bounds.num_keys, len(queries), dtype=bounds.dtype)
    bounds.multiply(rows, strip, out)
    lower, upper = portable._bound_distances(out.float(), bounds.rounding, bounds.terms(rows), strip)
    return lower.T.numpy(), upper.T.numpy()


PASSES: dict[str, Callable[[Bounds, torch.Tensor], tuple[np.ndarray, np.ndarray]]] = {
    "compiled": bound_by_compiled_passes,
    "portable": bound_by_portable_passes,
}


def measure_all(keys: torch.Tensor, queries: torch.Tensor) -> np.ndarray:
    differences = queries.double().numpy()[:, None] - keys.double().numpy()[None]
    return np.sqrt(np.square(differences).sum(2))


@pytest.fixture(params=products.PRODUCTS)
def _product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otad_ray.memory.search.bounds.choose_product", lambda device: products.PRODUCTS[request.param])


@pytest.mark.usefixtures("_product")
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("kind", KEYS)
def test_sketches_bound_every_distance(tmp_path: Path, kind: str, passes: str) -> None:
    keys = KEYS[kind](300)
    queries = draw_queries(keys)
    lower, upper = PASSES[passes](open_bounds(tmp_path, keys), queries)
    distances = measure_all(keys, queries)
    assert (lower <= distances).all()
    assert (distances <= upper).all()


@pytest.mark.usefixtures("_product")
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_sketches_bound_the_distances_of_near_pairs(tmp_path: Path, width: int, passes: str) -> None:
    """Queries that differ from a key by less than sketches are wrong, or in the tail alone, or have long tails."""
    keys = draw(400, width)
    steps = torch.cat([draw(10, width, seed=1) / 64, torch.zeros(10, width), draw(10, width, seed=2)])
    steps[10:20, -1] = 4.0
    queries = keys[:30] + steps
    lower, upper = PASSES[passes](open_bounds(tmp_path, keys), queries)
    distances = measure_all(keys, queries)
    assert (lower <= distances).all()
    assert (distances <= upper).all()


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("kind", KEYS)
def test_whole_keys_bound_every_distance(kind: str, passes: str) -> None:
    keys = KEYS[kind](300)
    queries = draw_queries(keys)
    lower, upper = PASSES[passes](WholeBounds(keys), queries)
    distances = measure_all(keys, queries)
    assert (lower <= distances).all()
    assert (distances <= upper).all()


@pytest.mark.parametrize("passes", PASSES)
def test_bounds_are_tight(tmp_path: Path, passes: str) -> None:
    """Without a tail, both bounds are within three percent of the distance; those of whole keys within a thousandth."""
    keys, queries = draw(500, 40), draw(20, 40, seed=1)
    distances = measure_all(keys, queries)
    for bounds, share in ((open_bounds(tmp_path, keys), 0.03), (WholeBounds(keys), 0.001)):
        lower, upper = PASSES[passes](bounds, queries)
        assert (upper - lower < share * distances.mean()).all()
