"""Products of whole numbers from -127 to 127, in the type that the processor multiplies fastest."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_REPEATS = 3
LARGEST_CODE = 127
# Rows, width and columns of products that are checked: blocks, single rows and columns, and single coordinates.
_CHECKED_SHAPES = ((512, 256, 128), (512, 256, 1), (1, 256, 2), (300, 64, 7), (40, 1, 1), (40, 1, 9))


@dataclass(frozen=True)
class Multiply:
    """A way to multiply codes.

    Attributes:
        product: writes the products of rows (R, W) int8 and columns (W, B) int8 to a tensor (R, B).
        dtype: of the products.
        rounding: bound on the relative error of a product.
    """

    product: Callable[[Tensor, Tensor, Tensor], object]
    dtype: torch.dtype
    rounding: float

    def __call__(self, rows: Tensor, columns: Tensor, out: Tensor) -> None:
        self.product(rows, columns, out)


def _multiply_int8(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    torch._int_mm(rows, columns, out=out)


def _multiply_bfloat16(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    out.copy_(torch.mm(rows.bfloat16(), columns.bfloat16()))


def _multiply_float32(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    torch.mm(rows.float(), columns.float(), out=out)


# Codes are exact in bfloat16 and in TensorFloat-32, and sums of up to 1040 products of them in float32. bfloat16
# products are summed in float32 and rounded once.
PRODUCTS: Mapping[str, Multiply] = {
    "int8": Multiply(_multiply_int8, torch.int32, 0.0),
    "bfloat16": Multiply(_multiply_bfloat16, torch.float32, torch.finfo(torch.bfloat16).eps),
    "float32": Multiply(_multiply_float32, torch.float32, 0.0),
}


@cache
def choose_product(device: str) -> Multiply:
    """Return the fastest of `PRODUCTS` that is right on this processor, by a measurement.

    On other devices it is float32: GPUs may add up bfloat16 products in bfloat16, which the bound does not cover.
    """
    if device != "cpu":
        return PRODUCTS["float32"]
    right = [multiply for name, multiply in PRODUCTS.items() if is_right(name, multiply)]
    return min(right, key=_time_product)


def is_right(name: str, multiply: Multiply) -> bool:
    """Return whether products are within their rounding, on extreme codes and on random ones.

    `_int_mm` is a private function of PyTorch. Without VNNI it adds pairs of products up in 16 bits, which hold less.
    """
    generator = torch.Generator().manual_seed(0)
    for num_rows, width, num_columns in _CHECKED_SHAPES:
        rows, columns = (
            torch.randint(-LARGEST_CODE, LARGEST_CODE + 1, shape, generator=generator, dtype=torch.int8)
            for shape in ((num_rows, width), (width, num_columns))
        )
        # A row and a column as large as can be, of one sign and of the other.
        rows[0], columns[:, 0] = LARGEST_CODE, LARGEST_CODE
        rows[-1], columns[:, -1] = -LARGEST_CODE, LARGEST_CODE
        out = torch.empty(num_rows, num_columns, dtype=multiply.dtype)
        try:
            multiply(rows, columns, out)
        except (AttributeError, RuntimeError) as error:
            logger.info("products in %s are missing in this build of PyTorch: %s", name, error)
            return False
        # In float64, which holds these sums exactly.
        exact = rows.double() @ columns.double()
        if bool(((out - exact).abs() > multiply.rounding * exact.abs()).any()):
            logger.info("products in %s are wrong on this processor, and not used", name)
            return False
    return True


def _time_product(multiply: Multiply) -> float:
    """Return the seconds of a block's product."""
    rows, columns = torch.ones(2048, 256, dtype=torch.int8), torch.ones(256, 128, dtype=torch.int8)
    out = torch.empty(2048, 128, dtype=multiply.dtype)
    multiply(rows, columns, out)
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        multiply(rows, columns, out)
        times.append(time.perf_counter() - start)
    return min(times)
