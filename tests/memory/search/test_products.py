"""Products of codes: each kind is right within its rounding, and one that is missing is passed over."""

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
