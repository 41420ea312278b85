"""Exact search: what is found is what float64 brute force finds, by every path."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.searched_keys import KEYS, draw, draw_decaying, draw_queries, on_grid, search_by_brute_force
from otad_ray.memory.search import ExactSearch, compiled, exact, nearest_others, portable, products
from otad_ray.memory.search.sketch import read_sketch, write_sketch

PASSES = {"compiled": compiled.search_strip, "portable": portable.search_strip}


@pytest.fixture(params=PASSES)
def _passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_choose_search", lambda device: PASSES[request.param])


@pytest.fixture(params=products.PRODUCTS)
def _product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otad_ray.memory.search.bounds.choose_product", lambda device: products.PRODUCTS[request.param])


def open_search(directory: Path, keys: torch.Tensor) -> ExactSearch:
    write_sketch(directory, keys.numpy())
    return ExactSearch(keys, read_sketch(directory, len(keys), "cpu"))


def check_neighbors(directory: Path, keys: torch.Tensor, counts: set[int]) -> None:
    """Assert that positions and distances are those of brute force, to the last bit."""
    queries = draw_queries(keys)
    search = open_search(directory, keys)
    for count in counts:
        positions, distances = search.nearest(queries, count)
        expected, expected_distances = search_by_brute_force(keys, queries, count)
        assert torch.equal(positions, expected)
        assert torch.equal(distances, expected_distances)


@pytest.mark.usefixtures("_passes", "_product")
@pytest.mark.parametrize("kind", KEYS)
def test_neighbors_are_those_of_brute_force(tmp_path: Path, kind: str) -> None:
    check_neighbors(tmp_path, KEYS[kind](500), {1, 4, 40})


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("size", [1, 2, 33])
def test_neighbors_among_few_keys_are_those_of_brute_force(tmp_path: Path, kind: str, size: int) -> None:
    check_neighbors(tmp_path, KEYS[kind](size), {1, size})


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("kind", KEYS)
def test_neighbors_among_many_keys_are_those_of_brute_force(tmp_path: Path, kind: str) -> None:
    """With more keys than all may be candidates of, some data sets go through all three stages."""
    check_neighbors(tmp_path, KEYS[kind](5000), {10})


@pytest.mark.usefixtures("_passes")
def test_without_a_sketch_the_same_is_found() -> None:
    keys = draw_decaying(3000, 50)
    positions, distances = ExactSearch(keys).nearest(keys[:70], 5)
    expected, expected_distances = search_by_brute_force(keys, keys[:70], 5)
    assert torch.equal(positions, expected)
    assert torch.equal(distances, expected_distances)


@pytest.mark.usefixtures("_passes")
def test_many_keys_at_the_same_distance_are_ordered_by_position(tmp_path: Path) -> None:
    keys = draw(6000, 20)
    keys[1000:5000] = 0.0
    positions, distances = open_search(tmp_path, keys).nearest(torch.zeros(3, 20), 30)
    assert positions.tolist() == [list(range(1000, 1030))] * 3
    assert not distances.any()


@pytest.mark.usefixtures("_passes")
@pytest.mark.parametrize("strip", [1, 7, 300])
def test_neighbors_do_not_depend_on_batches(tmp_path: Path, strip: int) -> None:
    keys = draw_decaying(2000, 90)
    queries = keys[:50] + 0.25 * draw(50, 90, seed=3)
    search = open_search(tmp_path, keys)
    whole = search.nearest(queries, 6)
    parts = [search.nearest(part, 6) for part in queries.split(strip)]
    for tensor, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(tensor, torch.cat(pieces))


def test_neighbors_do_not_depend_on_threads(tmp_path: Path) -> None:
    keys = draw_decaying(3000, 90)
    search = open_search(tmp_path, keys)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(search.nearest(keys[:600], 6))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_sketches_suffice_where_keys_can_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = draw_decaying(5000, 400)
    search = open_search(tmp_path, keys)
    monkeypatch.setattr(exact, "WholeBounds", lambda *_: pytest.fail("the sketches should have sufficed"))
    assert torch.equal(search.nearest(keys[:50] + 0.01, 10)[0][:, 0], torch.arange(50))


@pytest.mark.usefixtures("_passes")
def test_queries_with_too_many_candidates_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise outside of the sketches' directions leaves them little to tell keys apart by."""
    monkeypatch.setattr(exact, "choose_room", lambda keys, count: 24)
    keys = draw_decaying(2000, 600, decay=0.8)
    queries = torch.cat([keys[:30] + 2 * draw(30, 600, seed=9), keys[:30]])
    positions, distances = open_search(tmp_path, keys).nearest(queries, 5)
    expected, expected_distances = search_by_brute_force(keys, queries, 5)
    assert torch.equal(positions, expected)
    assert torch.equal(distances, expected_distances)


def test_a_wrong_guess_of_the_distance_is_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the tails, which have one direction only, point away from the query's: those guesses are too short."""
    keys = draw(600, 257)
    search = open_search(tmp_path, keys)
    directions = read_sketch(tmp_path, 600, "cpu").basis
    _, _, found = torch.linalg.svd(directions.T)
    queries = on_grid(keys[:20] + 30 * found[-1].float())
    guesses = []
    scan = compiled._scan
    monkeypatch.setattr(
        compiled, "_scan", lambda *arguments, guess: guesses.append(guess) or scan(*arguments, guess=guess)
    )
    positions, distances = search.nearest(queries, 600)
    expected, expected_distances = search_by_brute_force(keys, queries, 600)
    assert torch.equal(positions, expected)
    assert torch.equal(distances, expected_distances)
    assert False in guesses


def test_without_numba_the_portable_search_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("otad_ray.memory.search.compiled")
    monkeypatch.setitem(sys.modules, "otad_ray.memory.search.compiled", None)
    exact._choose_search.cache_clear()
    try:
        with caplog.at_level("INFO"):
            assert exact._choose_search("cpu") is portable.search_strip
    finally:
        exact._choose_search.cache_clear()
    assert "search without compiled loops" in caplog.text


def test_others_than_the_point_itself() -> None:
    points = torch.tensor([[0.0], [1.0], [1.0], [3.0]])
    assert nearest_others(points, torch.tensor([1, 3]), 2).tolist() == [[2, 0], [1, 2]]


def test_distances_are_the_same_to_the_last_bit_by_either_pass(tmp_path: Path) -> None:
    """For data that no float64 sum holds exactly."""
    keys = torch.rand(900, 131, generator=torch.Generator().manual_seed(0))
    write_sketch(tmp_path, keys.numpy())
    bounds = exact.SketchBounds(read_sketch(tmp_path, len(keys), "cpu"))
    queries = torch.rand(40, 131, generator=torch.Generator().manual_seed(1))
    found = [search(keys, bounds, queries, 8, 900) for search in PASSES.values()]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][1], search_by_brute_force(keys, queries, 8)[1].square(), rtol=1e-13)


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.usefixtures("_passes")
def test_coarse_products_of_float32_change_nothing(precision: str) -> None:
    """A user may allow them for the speed of networks."""
    keys = 3 + torch.rand(3000, 300, generator=torch.Generator().manual_seed(0))
    expected = ExactSearch(keys).nearest(keys[:40] + 0.01, 5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = ExactSearch(keys).nearest(keys[:40] + 0.01, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.usefixtures("_passes")
def test_small_products_that_count_as_zero_change_nothing(tmp_path: Path) -> None:
    keys = draw(60, 784) * 2.0**-63
    search, whole = open_search(tmp_path, keys), ExactSearch(keys)
    expected = search_by_brute_force(keys, keys[:20], 5)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps small numbers")
    try:
        found = search.nearest(keys[:20], 5), whole.nearest(keys[:20], 5)
    finally:
        torch.set_flush_denormal(False)
    for positions, _ in found:
        assert torch.equal(positions, expected[0])


def test_portable_passes_hold_no_more_pairs_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = torch.full((20_000, 3), 0.5)
    held = []
    take = portable._Pairs.take
    monkeypatch.setattr(portable._Pairs, "take", lambda self, kept: held.append(len(self.rows)) or take(self, kept))
    monkeypatch.setattr(portable, "_BLOCK_BYTES", 1 << 14)
    bounds = exact.WholeBounds(keys)
    *_, answered = portable.search_strip(keys, bounds, keys[:4], 2, 512)
    assert not answered.any()
    assert max(held) <= 4 * (512 + 1024)
