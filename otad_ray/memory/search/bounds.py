"""Bounds on the distances of a block of keys to a strip of queries, from matrix products.

For a kept sketch with squared norm `S`, scale `d`, tail `t` and error `e` of a key and of a query, and `P` the product
of their codes, the squared distance of the kept sketches is `M = S + S' - 2 d d' P - 2 t t'`, and

    sqrt(M) - e - e'  <=  |x - q|  <=  sqrt(M + 4 t t') + e + e'

Whole vectors are the case without tail and error and with scale 1, where `P` is their inner product in float32.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from otad_ray.memory.search.products import Multiply, choose_product
from otad_ray.memory.search.sketch import NUM_TERMS, SCALE, SQUARE, Sketch, square_norms

_EPSILON = torch.finfo(torch.float32).eps
# Relative error of terms that were rounded to float32, with their sums.
_TERMS_SLACK = 4 * _EPSILON


class Strip(NamedTuple):
    """A few queries, as a kind of bounds sees them.

    Attributes:
        columns: (W, B), what keys are multiplied by.
        terms: (B, 4) float32, as those of a `Sketch`.
    """

    columns: Tensor
    terms: Tensor


class Bounds(Protocol):
    """What is known of keys.

    Attributes:
        slack: bound on the error of M, relative to S + S'.
        rounding: bound on the relative error of the products.
        dtype: of the products.
        num_keys: number of keys.
    """

    slack: float
    rounding: float
    dtype: torch.dtype
    num_keys: int

    def prepare(self, queries: Tensor) -> Strip:
        """Return what products with queries (B, E) float32 are made of."""
        ...

    def multiply(self, rows: slice, strip: Strip, out: Tensor) -> None:
        """Write the products of the keys in some rows with a strip to a tensor (R, B)."""
        ...

    def terms(self, rows: slice) -> Tensor:
        """Return the terms (R, 4) float32 of the keys in some rows."""
        ...


class SketchBounds:
    """Bounds from sketches: one byte is read of each coordinate that is kept of a key."""

    slack = _TERMS_SLACK

    def __init__(self, sketch: Sketch) -> None:
        self._sketch = sketch
        self._product: Multiply = choose_product(sketch.codes.device.type)
        self.rounding, self.dtype = self._product.rounding, self._product.dtype
        self.num_keys = len(sketch.codes)

    def prepare(self, queries: Tensor) -> Strip:
        """As `Bounds.prepare`."""
        codes, terms = self._sketch.of(queries)
        return Strip(_transpose(codes), terms)

    def multiply(self, rows: slice, strip: Strip, out: Tensor) -> None:
        """As `Bounds.multiply`."""
        self._product(self._sketch.codes[rows], strip.columns, out)

    def terms(self, rows: slice) -> Tensor:
        """As `Bounds.terms`."""
        return self._sketch.terms[rows]


class WholeBounds:
    """Bounds from the keys themselves, whose products in float32 are rounded: for where sketches rule out little."""

    rounding, dtype = 0.0, torch.float32

    def __init__(self, keys: Tensor, squared_norms: Tensor | None = None) -> None:
        self._keys = keys
        self._squared_norms = square_norms(keys) if squared_norms is None else squared_norms
        self.num_keys, dimension = keys.shape
        # TensorFloat-32, where a user allows it, has ten bits of a float's significand.
        coarse = keys.is_cuda and torch.backends.cuda.matmul.allow_tf32
        # |q| |x| is at most half of S + S', and each of the additions, in any order, is rounded once.
        self.slack = (dimension + 16) * (2.0**-10 if coarse else _EPSILON) / 2 + _TERMS_SLACK

    def prepare(self, queries: Tensor) -> Strip:
        """As `Bounds.prepare`."""
        return Strip(_transpose(queries), _terms_of_norms(square_norms(queries)))

    def multiply(self, rows: slice, strip: Strip, out: Tensor) -> None:
        """As `Bounds.multiply`."""
        torch.mm(self._keys[rows], strip.columns, out=out)

    def terms(self, rows: slice) -> Tensor:
        """As `Bounds.terms`."""
        return _terms_of_norms(self._squared_norms[rows])


def _transpose(rows: Tensor) -> Tensor:
    """Return columns (W, B) of rows (B, W), copied.

    `contiguous` would leave the strides of a single row or column as they are, which `_int_mm` takes for others.
    """
    return rows.T.clone(memory_format=torch.contiguous_format)


def _terms_of_norms(squares: Tensor) -> Tensor:
    terms = squares.new_zeros(len(squares), NUM_TERMS)
    terms[:, SQUARE], terms[:, SCALE] = squares, 1.0
    return terms
