"""What certificates need of every point of a memory: computed once for a memory, its head and l."""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from otad_ray.certification.margins import AffineHead
from otad_ray.memory import NeighborMemory

# Rows of the memory read at a time, and bytes of a block of distances.
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 16 << 20

_SINGLE = torch.finfo(torch.float32)

# A number in float64 times this stays below itself when rounded to float32, and so do a few roundings in float32.
BELOW = 1 - 2.0**-22


class MemoryTable:
    """Logits of a memory's features, and bounds on distances to its points.

    strong_convexity: `l`. point_norm, feature_norm: the largest in the memory.
    members: for each class the positions of the training points whose feature `z_j` the head surely gives to it.
    """

    def __init__(self, memory: NeighborMemory, head: AffineHead, strong_convexity: float) -> None:
        self.points, self.head, self.strong_convexity = memory.points, head, strong_convexity
        self._point_squares = torch.cat([block.square().sum(1) for block in memory.points.split(_BLOCK_ROWS)])
        self.point_norm, self.feature_norm = (_largest_norm(rows) for rows in (memory.points, memory.features))
        logits = torch.cat([head.logits(block) for block in memory.features.split(_BLOCK_ROWS)])
        leaders = head.leaders(logits, head.rounding(logits.new_tensor([self.feature_norm])))
        self.members = [(leaders == label).nonzero().squeeze(1) for label in range(logits.shape[1])]
        # Logits of `y_j = z_j - l x_j`, from which those of `w_j = y_j + l x` follow.
        self._logits = (logits - strong_convexity * self._of_points(head)).T.contiguous()

    def raised_to_reach(self, bounds: Tensor, query: Tensor, predicted: int) -> Tensor:
        """`max(bounds_j, r_j)` (N,) of bounds (N,) float32, rounded down.

        `r_j`: around `query` (D,), how far `w_j = z_j + l (x - x_j)` surely stays in class `predicted`; infinite or
        0 for l = 0, where `w_j` does not move.
        """
        if self.strong_convexity == 0:
            return bounds.index_fill(0, self.members[predicted], torch.inf)
        rounding = self.head.rounding(self.center_norm(query.unsqueeze(0)))[0]
        moved = self.strong_convexity * self.head.weight @ query.double()
        radii = self.head.feature_radii(self._logits + moved.unsqueeze(1), rounding, predicted)
        return torch.maximum(bounds, radii.mul_(BELOW / abs(self.strong_convexity)).float())

    def center_norm(self, queries: Tensor) -> Tensor:
        """Bound (n,) on the norm of every `w_j` within `largest_radius` of queries (n, D)."""
        return self.feature_norm + 2 * abs(self.strong_convexity) * self.largest_radius(queries)

    def largest_radius(self, queries: Tensor) -> Tensor:
        """`|x| + max |x_j|` (n,): no entry radius is larger, and no certificate is given beyond it."""
        return queries.double().norm(dim=1) + self.point_norm

    def distance_bounds(self, queries: Tensor) -> Iterator[Tensor]:
        """For each query (D,) of queries (n, D), lower bounds (N,) float32 of its distances to the points.

        By a product in float32, less its error for any order of summation, with a few terms to spare for what is
        rounded after it: squares are lower by about `D 2^-24` of the norms' square.
        """
        block = max(1, _BLOCK_BYTES // (4 * len(self.points)))
        error = (self.points.shape[1] + 24) * (
            _SINGLE.eps * self.largest_radius(queries).square() / 2 + 4 * _SINGLE.tiny
        )
        offset = (queries.double().square().sum(1) - error).float().unsqueeze(1)
        for rows, shift in zip(queries.split(block), offset.split(block), strict=True):
            squared = torch.addmm(self._point_squares, rows, self.points.T, alpha=-2.0)
            # One at a time: a block would leave the processor's cache.
            yield from (row.add_(amount).clamp_min_(0).sqrt_() for row, amount in zip(squared, shift, strict=True))

    def _of_points(self, head: AffineHead) -> Tensor:
        """`W x_j` (N, C)."""
        if self.strong_convexity == 0:
            return self.points.new_zeros(1, dtype=torch.float64)
        return torch.cat([block.double() @ head.weight.T for block in self.points.split(_BLOCK_ROWS)])


_tables: WeakKeyDictionary[NeighborMemory, MemoryTable] = WeakKeyDictionary()


def memory_table(memory: NeighborMemory, head: AffineHead, strong_convexity: float) -> MemoryTable:
    """The memory's table, made where the last one was for another head or another l."""
    table = _tables.get(memory)
    if table is None or table.strong_convexity != strong_convexity or not table.head.agrees_with(head):
        table = _tables[memory] = MemoryTable(memory, head, strong_convexity)
    return table


def _largest_norm(rows: Tensor) -> float:
    """Rounded up."""
    largest = max(float(block.double().norm(dim=1).max()) for block in rows.split(_BLOCK_ROWS))
    return largest * (1 + 1e-6)
