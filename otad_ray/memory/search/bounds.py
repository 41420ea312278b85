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

_EPSILON, _SMALLEST = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
# What products in TensorFloat-32 or bfloat16 add to the slack: either factor is rounded to at least 8 bits.
_COARSE = 2.0**-6
# Above what products of scales, tails and errors below the smallest normal number take from M.
_LOST_CODES = 1e-30
# Relative error of terms that were rounded to float32, with their sums.
_TERMS_SLACK = 4 * _EPSILON


class Strip(NamedTuple):
    """A few queries, as a kind of bounds sees them.

    Attributes:
        columns: (W, B), what keys are multiplied by.
        terms: (B, 4) float32, as those of a `Sketch`.
        slack: bound on the error of M, relative to S + S'.
        lost: bound on what M may have lost beside that, because small products count as zero.
    """

    columns: Tensor
    terms: Tensor
    slack: float
    lost: float

    def take(self, rows: Tensor) -> "Strip":
        """Return some of the queries."""
        return self._replace(columns=self.columns[:, rows], terms=self.terms[rows])


class Bounds(Protocol):
    """What is known of keys.

    Attributes:
        rounding: bound on the relative error of the products.
        dtype: of the products.
        num_keys: number of keys.
    """

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


class SearchStrip(Protocol):
    """Finds the nearest keys of a few queries, by one pass over bounds on all distances."""

    def __call__(
        self, keys: Tensor, bounds: Bounds, queries: Tensor, count: int, room: int, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find them.

        Args:
            keys: (N, E) float32.
            bounds: bounds on distances to the keys.
            queries: (B, E) float32.
            count: neighbors sought, at most N.
            room: candidates that a query may have.

        Returns:
            Positions (B, count) int64 and squared distances (B, count) float64, ordered by distance and then position,
            and which queries (B,) were answered; what is said of others means nothing.
        """
        ...


class SketchBounds:
    """Bounds from sketches: one byte is read of each coordinate that is kept of a key."""

    def __init__(self, sketch: Sketch) -> None:
        self._sketch = sketch
        self._product: Multiply = choose_product(sketch.codes.device.type)
        self.rounding, self.dtype = self._product.rounding, self._product.dtype
        self.num_keys = len(sketch.codes)

    def prepare(self, queries: Tensor) -> Strip:
        """As `Bounds.prepare`."""
        codes, terms = self._sketch.of(queries)
        return Strip(_transpose(codes), terms, _TERMS_SLACK, _LOST_CODES)

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
        self.num_keys, self._dimension = keys.shape

    def prepare(self, queries: Tensor) -> Strip:
        """As `Bounds.prepare`."""
        terms = self._dimension + 16
        # |q| |x| is at most half of S + S', and each of the additions, in any order, is rounded once.
        slack = terms * _EPSILON / 2 + _TERMS_SLACK
        if not _multiplies_in_float32(queries.device):
            slack += _COARSE
        return Strip(_transpose(queries), _terms_of_norms(square_norms(queries)), slack, 4 * terms * _SMALLEST)

    def multiply(self, rows: slice, strip: Strip, out: Tensor) -> None:
        """As `Bounds.multiply`."""
        torch.mm(self._keys[rows], strip.columns, out=out)

    def terms(self, rows: slice) -> Tensor:
        """As `Bounds.terms`."""
        return _terms_of_norms(self._squared_norms[rows])


def _multiplies_in_float32(device: torch.device) -> bool:
    """Return whether matrix products of float32 are as exact as float32 is, by a product.

    A user may allow TensorFloat-32 or bfloat16 for them at any time, in several ways.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = (1 + torch.rand(64, 64, generator=generator) / 16 for _ in range(2))
    found = (rows.to(device) @ columns.to(device)).cpu().double()
    exact = rows.double() @ columns.double()
    return bool(((found - exact).abs() <= 64 * _EPSILON * exact).all())


def _transpose(rows: Tensor) -> Tensor:
    """Return columns (W, B) of rows (B, W), copied.

    `contiguous` would leave the strides of a single row or column as they are, which `_int_mm` takes for others.
    """
    return rows.T.clone(memory_format=torch.contiguous_format)


def _terms_of_norms(squares: Tensor) -> Tensor:
    terms = squares.new_zeros(len(squares), NUM_TERMS)
    terms[:, SQUARE], terms[:, SCALE] = squares, 1.0
    return terms
