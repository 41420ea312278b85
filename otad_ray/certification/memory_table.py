"""What certificates need of every point of a memory: computed once for a memory, its head and l."""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from otad_ray.certification.key_distances import KeyDistances, largest_norm, split_rows
from otad_ray.certification.margins import AffineHead
from otad_ray.memory import NeighborMemory

# A number in float64 times this stays below itself when rounded to float32, and so do a few roundings in float32.
BELOW = 1 - 2.0**-22


class MemoryTable:
    """Logits of a memory's features, and bounds on distances to its keys.

    strong_convexity: `l`. members: for each class the positions of the training points whose feature `z_j` the head
    surely gives to it.
    """

    def __init__(self, memory: NeighborMemory, head: AffineHead, strong_convexity: float) -> None:
        self.keys, self.head, self.strong_convexity = memory.keys, head, strong_convexity
        self._distances = KeyDistances(memory.keys)
        searched_by_points = memory.points is memory.keys
        self._point_norm = self._distances.largest_norm if searched_by_points else largest_norm(memory.points)
        self._feature_norm = largest_norm(memory.features)
        logits = torch.cat([head.logits(block) for block in split_rows(memory.features)])
        leaders = head.leaders(logits, head.rounding(logits.new_tensor([self._feature_norm])))
        self.members = [(leaders == label).nonzero().squeeze(1) for label in range(logits.shape[1])]
        # Logits of `y_j = z_j - l x_j`, from which those of `w_j = y_j + l x` follow.
        if strong_convexity != 0:
            seen = torch.cat([block.double() @ head.seen.T for block in split_rows(memory.points)])
            logits = logits - strong_convexity * seen
        self._logits = logits.T.contiguous()

    def reach(self, point: Tensor, predicted: int) -> Tensor:
        """`r_j` (N,): around `point` (d,), how far `w_j = z_j + l (x - x_j)` surely stays in class `predicted`.

        Infinite or 0 for l = 0, where `w_j` does not move.
        """
        if self.strong_convexity == 0:
            return torch.zeros_like(self._distances.squares).index_fill_(0, self.members[predicted], torch.inf)
        rounding = self.head.rounding(self.center_norm(point.unsqueeze(0)))[0]
        moved = self.strong_convexity * self.head.seen @ point.double()
        slopes = self.head.center_slopes(self.strong_convexity)
        return self.head.radii(self._logits + moved.unsqueeze(1), rounding, predicted, slopes)

    def center_norm(self, points: Tensor) -> Tensor:
        """Bound (n,) on the norm of every `w_j` within `largest_radius` of points (n, d)."""
        return self._feature_norm + 2 * abs(self.strong_convexity) * self.largest_radius(points)

    def largest_radius(self, points: Tensor) -> Tensor:
        """`|x| + max |x_j|` (n,) of points (n, d): no certificate is given beyond it."""
        return points.double().norm(dim=1) + self._point_norm

    def distance_bounds(self, keys: Tensor) -> Iterator[Tensor]:
        """Yield for each of keys (n, E) lower bounds (N,) float32 of its distances to the memory's."""
        return self._distances.lower_bounds(keys)


_tables: WeakKeyDictionary[NeighborMemory, MemoryTable] = WeakKeyDictionary()


def memory_table(memory: NeighborMemory, head: AffineHead, strong_convexity: float) -> MemoryTable:
    """The memory's table, made where the last one was for another head or another l."""
    table = _tables.get(memory)
    if table is None or table.strong_convexity != strong_convexity or not table.head.agrees_with(head):
        table = _tables[memory] = MemoryTable(memory, head, strong_convexity)
    return table
