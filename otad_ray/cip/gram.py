"""Inner products of a query, its neighbors and their features: all that convex integration needs.

Both programs of the paper depend on the points only through K x K matrices. Forming these once makes
the rest independent of the dimension, and lets points be stored in any space isometric to their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Bytes of float64 rows that a thread holds at a time: few enough for a processor's second-level cache.
_BLOCK_BYTES = 2 << 20


@dataclass(frozen=True)
class GramBlocks:
    """Inner products, float64, of vectors centered over the K neighbors; B rows.

    With `xc_i = x_i - mean(x)`, `q = query - mean(x)`, `zc_i = z_i - mean(z)` and `zbar = mean(z)`:

    points (B, K+1, K+1): Gram matrix of `xc_1 .. xc_K, q`.
    features (B, K+1, K+1): Gram matrix of `zc_1 .. zc_K, zbar`.
    cross (B, K+1, K+1): `zc_1 .. zc_K, zbar` (rows) times `xc_1 .. xc_K, q` (columns).
    input_epsilon: machine epsilon of the dtype the vectors came in.
    """

    points: Tensor
    features: Tensor
    cross: Tensor
    input_epsilon: float

    @property
    def num_neighbors(self) -> int:
        return self.points.shape[-1] - 1

    def rows(self, index: Tensor) -> "GramBlocks":
        """The blocks of some rows only."""
        return GramBlocks(self.points[index], self.features[index], self.cross[index], self.input_epsilon)


def gram_blocks(
    query: Tensor | None, points: Tensor, features: Tensor, *, features_in_point_space: Tensor | None = None
) -> GramBlocks:
    """Inner products of `query` (B, D), `points` (B, K, D) and `features` (B, K, D).

    Without a query its offset is zero: enough for the potentials, which do not depend on it.
    Points (and the query) may be given as coordinates in a smaller space isometric to their own, of
    dimension d; then `features_in_point_space` (B, K, d) holds the features projected onto it, so that
    its products with the coordinates equal those of features with points.
    """
    nearby = features if features_in_point_space is None else features_in_point_space
    last = points.shape[1] + 1
    gram = _CenteredGram.apply(query, points, nearby)
    full = gram[:, last:, last:] if features_in_point_space is None else _CenteredGram.apply(None, None, features)
    epsilon = max(torch.finfo(points.dtype).eps, torch.finfo(features.dtype).eps)
    return GramBlocks(gram[:, :last, :last], full, gram[:, last:, :last], epsilon)


def check_neighborhoods(points: Tensor, features: Tensor, *, same_space: bool = True) -> None:
    """ValueError unless points and features are (B, K, D) with K, D >= 1, both float32 or both float64.

    same_space: whether they must agree in D.
    """
    if points.dim() != 3 or points.shape[1] < 1 or points.shape[2] < 1:
        raise ValueError(f"need points (B, K, D) with K >= 1 and D >= 1, got {tuple(points.shape)}")
    agreeing = 3 if same_space else 2
    if features.dim() != 3 or points.shape[:agreeing] != features.shape[:agreeing]:
        raise ValueError(
            f"points and features (B, K, D) must agree, got {tuple(points.shape)} and {tuple(features.shape)}"
        )
    if points.dtype != features.dtype or points.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "query, points and features must all be float32 or all float64, "
            f"got points {points.dtype} and features {features.dtype}"
        )


class _CenteredGram(torch.autograd.Function):
    """Gram matrix (B, R, R) of the rows `xc_1 .. xc_K, q` (left out without points) and `zc_1 .. zc_K, zbar`.

    A few samples at a time are converted to float64 and centered in one buffer that stays in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor | None, points: Tensor | None, features: Tensor) -> Tensor:
        ctx.save_for_backward(query, points, features)
        num_rows = features.shape[1] + 1 + (0 if points is None else points.shape[1] + 1)
        gram = features.new_zeros(len(features), num_rows, num_rows, dtype=torch.float64)
        for samples, _, rows in _centered_rows(query, points, features, num_rows):
            gram[samples].baddbmm_(rows, rows.mT)
        return gram

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs: tuple[Any, ...] = ctx.saved_tensors
        grads: list[Any] = [torch.empty_like(inputs[i]) if ctx.needs_input_grad[i] else None for i in range(3)]
        for samples, entries, rows in _centered_rows(inputs[0], inputs[1], inputs[2], gradient.shape[1]):
            row_grads = (gradient[samples] + gradient[samples].mT) @ rows
            values = _input_grads(row_grads, inputs[2].shape[1], has_query=inputs[0] is not None)
            for grad, value in zip(grads, values, strict=True):
                if grad is not None:
                    grad[samples, ..., entries] = value
        return grads[0], grads[1], grads[2]


def _centered_rows(
    query: Tensor | None, points: Tensor | None, features: Tensor, num_rows: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Slices of the samples and of their D entries, with the centered rows (n, R, d) of these, float64.

    The rows lie in a buffer that the next ones overwrite. Centering is entry by entry, and inner products add up.
    """
    num_samples, num_neighbors, dimension = features.shape
    width = _balanced(dimension, max(1, _BLOCK_BYTES // (8 * num_rows)))
    # Each thread takes samples of its own.
    height = max(1, _BLOCK_BYTES // (8 * num_rows * width)) * torch.get_num_threads()
    height = max(1, min(num_samples, height))
    buffer = features.new_empty(height, num_rows, width, dtype=torch.float64)
    for start in range(0, num_samples, height):
        samples = slice(start, min(start + height, num_samples))
        for first in range(0, dimension, width):
            entries = slice(first, min(first + width, dimension))
            rows = buffer[: samples.stop - start, :, : entries.stop - first]
            if points is not None:
                rows[:, :num_neighbors] = points[samples, :, entries]
                center = rows[:, :num_neighbors].mean(1)
                rows[:, num_neighbors] = center if query is None else query[samples, entries]
                rows[:, : num_neighbors + 1] -= center.unsqueeze(1)
            rows[:, -num_neighbors - 1 : -1] = features[samples, :, entries]
            rows[:, -1] = rows[:, -num_neighbors - 1 : -1].mean(1)
            rows[:, -num_neighbors - 1 : -1] -= rows[:, -1:]
            yield samples, entries, rows


def _balanced(total: int, largest: int) -> int:
    """The size of equal pieces of at most `largest`."""
    return -(-total // -(-total // largest))


def _input_grads(
    row_grads: Tensor, num_neighbors: int, *, has_query: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of query, points and features from those of the centered rows."""
    centered, mean = row_grads[:, -num_neighbors - 1 : -1], row_grads[:, -1:]
    features = centered + (mean - centered.sum(1, keepdim=True)) / num_neighbors
    if row_grads.shape[1] == num_neighbors + 1:
        return None, None, features
    centered, offset = row_grads[:, :num_neighbors], row_grads[:, num_neighbors]
    if not has_query:
        # The query's row is zero whatever the points are.
        offset = torch.zeros_like(offset)
    points = centered - (centered.sum(1) + offset).unsqueeze(1) / num_neighbors
    return offset, points, features
