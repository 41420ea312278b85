"""Lower bounds on distances to the keys of a memory, by products in float32."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Bytes of float64 rows held at a time, and bytes of a block of distances.
_ROW_BYTES = 32 << 20
_BLOCK_BYTES = 16 << 20

_SINGLE = torch.finfo(torch.float32)


class KeyDistances:
    """Keys (N, E), their squared norms (N,), and the largest norm, rounded up."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.squares = torch.cat([block.square().sum(1) for block in split_rows(keys)])
        self.largest_norm = largest_norm(keys)

    def lower_bounds(self, queries: Tensor) -> Iterator[Tensor]:
        """Yield for each of queries (n, E) lower bounds (N,) float32 of its distances to the keys.

        By a product in float32, less its error for any order of summation, with a few terms to spare for what is
        rounded after it: squares are lower by about `E 2^-24` of the norms' square.
        """
        block = max(1, _BLOCK_BYTES // (4 * len(self.keys)))
        norms = queries.double().norm(dim=1) + self.largest_norm
        error = (self.keys.shape[1] + 24) * (_SINGLE.eps * norms.square() / 2 + 4 * _SINGLE.tiny)
        offset = (queries.double().square().sum(1) - error).float().unsqueeze(1)
        for rows, shift in zip(queries.split(block), offset.split(block), strict=True):
            squared = torch.addmm(self.squares, rows, self.keys.T, alpha=-2.0)
            # One at a time: a block would leave the processor's cache.
            yield from (row.add_(amount).clamp_min_(0).sqrt_() for row, amount in zip(squared, shift, strict=True))


def split_rows(rows: Tensor) -> tuple[Tensor, ...]:
    """Split rows (N, E) into blocks that are small in float64."""
    return rows.split(max(1, _ROW_BYTES // (8 * rows.shape[1])))


def largest_norm(rows: Tensor) -> float:
    """Return the largest norm of rows (N, E), rounded up."""
    largest = max(float(block.double().norm(dim=1).max()) for block in split_rows(rows))
    return largest * (1 + 1e-6)
