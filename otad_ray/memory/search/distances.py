"""Squared distances in float64, summed in an order of their own: the same to the last bit wherever they are computed.

The squared differences of a pair are added up in 16 lanes, entry i in lane i modulo 16, and then the upper half of the
lanes is added to the lower one until one is left. `compiled.py` does the same.
"""

import numpy as np
import torch
from torch import Tensor

NUM_LANES = 16
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
    """Return the sums (n,) of the squares of differences (n, E) float64."""
    squares = differences.square_()
    lanes = torch.zeros(len(squares), NUM_LANES, dtype=squares.dtype, device=squares.device)
    for start in range(0, squares.shape[1], NUM_LANES):
        part = squares[:, start : start + NUM_LANES]
        lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
