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
# Relative rounding of bounds in float32.
_SLACK = 32 * torch.finfo(torch.float32).eps
_DOWN, _UP = 1 - 2.0**-20, 1 + 2.0**-20


class _Pairs(NamedTuple):
    """Queries (n,) and keys (n,), by position, that may be neighbors, and lower bounds (n,) on their distances."""

    rows: Tensor
    positions: Tensor
    lower: Tensor

    def take(self, kept: Tensor) -> "_Pairs":
        """Return some of the pairs."""
        return _Pairs(*(values[kept] for values in self))


def search_strip(keys: Tensor, bounds: Bounds, queries: Tensor, count: int, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest keys of a few queries, as `SearchStrip` says."""
    size, device = len(queries), queries.device
    (rows, positions, _), answered = _find_pairs(bounds, bounds.prepare(queries), count, room)
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


def _find_pairs(bounds: Bounds, strip: Strip, count: int, room: int) -> tuple[_Pairs, Tensor]:
    """Return the pairs that the bounds do not rule out, and which queries (B,) had room for all of theirs."""
    size = len(strip.terms)
    device = strip.terms.device
    block = max(_LEAST_BLOCK, _BLOCK_BYTES // (4 * size))
    buffer = torch.empty(min(block, bounds.num_keys), size, dtype=bounds.dtype, device=device)
    nearest = torch.full((count, size), torch.inf, device=device)
    pairs = _Pairs(*(torch.empty(0, dtype=kind, device=device) for kind in (torch.int64, torch.int64, torch.float32)))
    for first in range(0, bounds.num_keys, block):
        rows = slice(first, min(first + block, bounds.num_keys))
        products = buffer[: rows.stop - first]
        bounds.multiply(rows, strip, products)
        lower, upper = _bound_distances(products.float(), bounds.rounding, bounds.terms(rows), strip)
        nearest = torch.cat([nearest, upper]).topk(count, dim=0, largest=False).values
        position, row = (lower <= nearest[-1]).nonzero(as_tuple=True)
        found = _Pairs(row, position + first, lower[position, row])
        pairs = _Pairs(*(torch.cat(parts) for parts in zip(pairs, found, strict=True)))
        pairs = pairs.take(pairs.lower <= nearest[-1][pairs.rows])
        crowded = torch.bincount(pairs.rows, minlength=size) > room
        # Whatever comes later, it is not kept.
        nearest[:, crowded] = -torch.inf
        pairs = pairs.take(~crowded[pairs.rows])
    return pairs, torch.isfinite(nearest[-1])


def _bound_distances(products: Tensor, rounding: float, keys: Tensor, strip: Strip) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (R, B) float32 on distances, given products (R, B) and the keys' terms (R, 4)."""
    queries = strip.terms

    def of_key(column: int) -> Tensor:
        return keys[:, column].unsqueeze(1)

    total = of_key(SQUARE) + queries[:, SQUARE]
    doubled = 2 * of_key(SCALE) * queries[:, SCALE] * products
    tails = 2 * of_key(TAIL) * queries[:, TAIL]
    errors = of_key(ERROR) + queries[:, ERROR]
    lost = (strip.slack + _SLACK) * total + rounding * doubled.abs() + strip.lost
    lower = (total - doubled - tails - lost).clamp_min(0).sqrt() * _DOWN - errors * _UP
    upper = ((total - doubled + tails + lost).clamp_min(0).sqrt() + errors) * _UP
    return lower, upper
