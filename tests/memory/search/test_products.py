"""Products of codes: each kind is right within its rounding, and one that is missing is passed over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from otad_ray.memory.search import products


@pytest.mark.parametrize("name", products.PRODUCTS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (33, 1, 40), (300, 256, 1), (300, 256, 130), (5, 17, 3)])
def test_product_is_exact_up_to_its_rounding(name: str, shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    num_rows, width, num_columns = shape
    rows = torch.randint(-127, 128, (num_rows, width), generator=generator, dtype=torch.int8)
    columns = torch.randint(-127, 128, (width, num_columns), generator=generator, dtype=torch.int8)
    multiply = products.PRODUCTS[name]
    if not products.is_right(name, multiply):
        pytest.skip("this processor adds int8 products up in 16 bits")
    out = torch.empty(num_rows, num_columns, dtype=multiply.dtype)
    multiply(rows, columns, out)
    expected = rows.long() @ columns.long()
    assert ((out.long() - expected).abs() <= multiply.rounding * expected.abs()).all()


def test_largest_product_is_exact_in_float32() -> None:
    rows = torch.full((4, 256), 127, dtype=torch.int8)
    out = torch.empty(4, 4)
    products.PRODUCTS["float32"](rows, rows.T.clone(), out)
    assert (out == 256 * 127**2).all()


def test_a_product_that_is_missing_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: torch.Tensor, columns: torch.Tensor, out: torch.Tensor) -> None:
        raise RuntimeError("_int_mm is not there")

    monkeypatch.setattr(products, "PRODUCTS", {**products.PRODUCTS, "int8": products.Multiply(fail, torch.int32, 0.0)})
    products.choose_product.cache_clear()
    try:
        assert products.choose_product("cpu").dtype == torch.float32
    finally:
        products.choose_product.cache_clear()


def test_a_product_that_is_wrong_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of processors which add pairs of products up in 16 bits."""

    def saturate(rows: torch.Tensor, columns: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_((rows.float() @ columns.float()).clamp(-32768, 32767))

    monkeypatch.setattr(
        products, "PRODUCTS", {**products.PRODUCTS, "int8": products.Multiply(saturate, torch.int32, 0.0)}
    )
    products.choose_product.cache_clear()
    try:
        assert products.choose_product("cpu").dtype == torch.float32
    finally:
        products.choose_product.cache_clear()


_SEARCH = """
import torch
from helpers.searched_keys import draw, search_by_brute_force
from otad_ray.memory.search import ExactSearch
from otad_ray.memory.search.sketch import read_sketch, write_sketch
import sys, pathlib
keys = (draw(400, 64) > 0).float()
queries = keys[:50] + draw(50, 64, seed=1) / 8
directory = pathlib.Path(sys.argv[1])
write_sketch(directory, keys.numpy())
found = ExactSearch(keys, read_sketch(directory, 400, "cpu")).nearest(queries, 9)
expected = search_by_brute_force(keys, queries, 9)
print(torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]))
"""


@pytest.mark.parametrize(
    "processor",
    ["AVX2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("AVX512_CORE", "AVX512_CORE_VNNI"))],
)
def test_older_processors_find_the_same(tmp_path: Path, processor: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _SEARCH, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": processor, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.stdout.strip() == "True"
