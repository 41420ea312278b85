"""The passes of a search by operations of PyTorch: for GPUs, and where `compiled.py` cannot be used."""

from typing import NamedTuple

import torch
from torch import Tensor

from otad_ray.memory.search.bounds import Bounds, Strip
from otad_ray.memory.search.distances import measure_pairs
from otad_ray.memory.search.sketch import ERROR, SCALE, SQUARE, TAIL

# Bytes of a block of products.
_BLOCK_BYTES = 8 << 20
_LEAST_BLOCK = 256
# Relative and absolute rounding of bounds in float32.
_SLACK = 32 * torch.finfo(torch.float32).eps
_TINY = 1e-36
_DOWN, _UP = 1 - 2.0**-20, 1 + 2.0**-20


class _Pairs(NamedTuple):
    """Queries (n,) and keys (n,), by position, that may be neighbors, and lower bounds (n,) on their distances."""

    rows: Tensor
    positions: Tensor
    lower: Tensor


def search_strip(keys: Tensor, bounds: Bounds, queries: Tensor, count: int, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest keys of a few queries.

    Args:
        keys: (N, E) float32.
        bounds: bounds on distances to the keys.
        queries: (B, E) float32.
        count: neighbors sought, at most N.
        room: candidates that a query may have.

    Returns:
        Positions (B, count) int64 and squared distances (B, count) float64, ordered by distance and then position, and
        which queries (B,) were answered; what is said of others means nothing.
    """
    size, device = len(queries), queries.device
    pairs = _find_pairs(bounds, bounds.prepare(queries), size, count)
    answered = torch.bincount(pairs.rows, minlength=size) <= room
    kept = answered[pairs.rows]
    rows, positions = pairs.rows[kept], pairs.positions[kept]
    found = torch.zeros(size, count, dtype=torch.int64, device=device)
    squares = torch.zeros(size, count, dtype=torch.float64, device=device)
    found[answered], squares[answered] = take_nearest(
        rows, positions, measure_pairs(keys, positions, queries, rows), count
    )
    return found, squares, answered


def take_nearest(rows: Tensor, positions: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the nearest of pairs for each row that occurs, in the order of the rows.

    Args:
        rows: (n,); each that occurs does so at least `count` times.
        positions: (n,) of keys.
        squares: (n,) squared distances.
        count: how many of each row are taken.

    Returns:
        Positions and squared distances (m, count), ordered by distance and then position.
    """
    order = positions.argsort(stable=True)
    order = order[squares[order].argsort(stable=True)]
    order = order[rows[order].argsort(stable=True)]
    _, lengths = rows[order].unique_consecutive(return_counts=True)
    starts = lengths.cumsum(0) - lengths
    taken = order[starts.unsqueeze(1) + torch.arange(count, device=rows.device)]
    return positions[taken], squares[taken]


def _find_pairs(bounds: Bounds, strip: Strip, size: int, count: int) -> _Pairs:
    """Return the pairs that the bounds do not rule out."""
    device = strip.terms.device
    block = max(_LEAST_BLOCK, _BLOCK_BYTES // (4 * size))
    buffer = torch.empty(min(block, bounds.num_keys), size, dtype=bounds.dtype, device=device)
    nearest = torch.full((count, size), torch.inf, device=device)
    found = []
    for first in range(0, bounds.num_keys, block):
        rows = slice(first, min(first + block, bounds.num_keys))
        products = buffer[: rows.stop - first]
        bounds.multiply(rows, strip, products)
        lower, upper = _bound_distances(products.float(), bounds, bounds.terms(rows), strip.terms)
        nearest = torch.cat([nearest, upper]).topk(count, dim=0, largest=False).values
        position, row = (lower <= nearest[-1]).nonzero(as_tuple=True)
        found.append(_Pairs(row, position + first, lower[position, row]))
    pairs = _Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    kept = pairs.lower <= nearest[-1][pairs.rows]
    return _Pairs(*(values[kept] for values in pairs))


def _bound_distances(products: Tensor, bounds: Bounds, keys: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (R, B) float32 on distances, given products (R, B) and terms (R, 4) and (B, 4)."""

    def of_key(column: int) -> Tensor:
        return keys[:, column].unsqueeze(1)

    total = of_key(SQUARE) + queries[:, SQUARE]
    doubled = 2 * of_key(SCALE) * queries[:, SCALE] * products
    tails = 2 * of_key(TAIL) * queries[:, TAIL]
    errors = of_key(ERROR) + queries[:, ERROR]
    lost = (bounds.slack + _SLACK) * total + bounds.rounding * doubled.abs() + _TINY
    lower = (total - doubled - tails - lost).clamp_min(0).sqrt() * _DOWN - errors * _UP
    upper = ((total - doubled + tails + lost).clamp_min(0).sqrt() + errors) * _UP
    return lower, upper
