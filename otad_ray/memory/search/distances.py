"""Squared distances in float64, summed in an order of their own: the same to the last bit wherever they are computed.

The squared differences of a pair are halved in number until one is left, each time by adding the upper half of them to
the lower one; of an odd number, the middle one stays as it is. `compiled_loops.py` does the same.
"""

import numpy as np
import torch
from torch import Tensor

# Bytes of the differences of a block of pairs.
_BLOCK_BYTES = 64 << 20


def measure_pairs(keys: Tensor, positions: Tensor, queries: Tensor, rows: Tensor) -> Tensor:
    """Return the squared distances (n,) float64 of keys at positions (n,) to queries at rows (n,)."""
    pairs = max(1, _BLOCK_BYTES // (8 * keys.shape[1]))
    blocks = zip(positions.split(pairs), rows.split(pairs), strict=True)
    found = [_square(keys.index_select(0, near).double() - queries.index_select(0, row)) for near, row in blocks]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64, device=keys.device)


def take_root(squares: Tensor) -> Tensor:
    """Return the square roots, rounded correctly; those of PyTorch on a CPU may depend on the processor."""
    return squares.sqrt() if squares.is_cuda else torch.from_numpy(np.sqrt(squares.numpy()))


def _square(differences: Tensor) -> Tensor:
    """Return the sums (n,) of the squares of differences (n, E) float64, which are overwritten."""
    squares = differences.square_()
    left = squares.shape[1]
    while left > 1:
        half = (left + 1) // 2
        squares[:, : left // 2] += squares[:, half:left]
        left = half
    return squares[:, 0]
