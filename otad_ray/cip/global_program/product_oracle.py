"""The oracle for many pieces: products with all of them in their own type, and the largest again in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.cip.global_program.pieces import Pieces
from otad_ray.cip.global_program.working_set import NEW_PIECES, WorkingSet
from otad_ray.cip.simplex_qp import solve_simplex_qp


@dataclass(frozen=True)
class ProductOracle:
    """Forms the products with all pieces in every round.

    Attributes:
        query: x (B, D), float64 and finite.
        pieces: The pieces.
        smoothness: L.
        exclude: A piece (B,) for each row that does not count.
        finished: The gap, relative to the size of the values, from which on it is measured over all pieces.
    """

    query: Tensor
    pieces: Pieces
    smoothness: float
    exclude: Tensor | None
    finished: float

    def find_first(self) -> Tensor:
        return self.pieces.find_vertices(self.query, self.smoothness, self._count(0), self.exclude)

    def solve(self, rows: Tensor, index: Tensor, start: Tensor | None) -> WorkingSet:
        return solve_pieces(self.query[rows], self.pieces, self.smoothness, index, start)

    def find_largest(self, rows: Tensor, current: WorkingSet) -> tuple[Tensor, Tensor]:
        places, exclude = self._place(rows, current)
        # Those that have weight come first, and as many others are wanted.
        count = self._count(current.largest_support)
        found = self.pieces.find_largest(places, count, exclude)
        enough = self.finished * current.size
        largest = found.values.amax(1)
        gap, bound = largest - current.level, torch.maximum(largest, found.bound) - current.level
        # Where the products leave open whether another piece is larger, all are measured, once nothing else is to do.
        open_rows = ((gap <= enough) & (bound > enough)).nonzero().squeeze(1)
        gap = torch.where(gap <= enough, bound, gap)
        if len(open_rows):
            left_out = None if exclude is None else exclude[open_rows]
            exact = self.pieces.find_largest_exactly(places[open_rows], count, left_out)
            found.pieces[open_rows] = exact.pieces
            gap[open_rows] = torch.maximum(exact.values.amax(1), exact.bound) - current.level[open_rows]
        return found.pieces, gap.clamp_min(0)

    def measure_gap(self, rows: Tensor, current: WorkingSet) -> Tensor:
        places, exclude = self._place(rows, current)
        exact = self.pieces.find_largest_exactly(places, 1, exclude)
        return (torch.maximum(exact.values[:, 0], exact.bound) - current.level).clamp_min(0)

    def _place(self, rows: Tensor, current: WorkingSet) -> tuple[Tensor, Tensor | None]:
        """Return the places w (n, D) of the solution, and the pieces (n,) that do not count there."""
        places = self.query[rows] - current.feature / self.smoothness
        return places, None if self.exclude is None else self.exclude[rows]

    def _count(self, known: int) -> int:
        """Return how many pieces are sought if so many are known."""
        return min(known + NEW_PIECES, len(self.pieces) - (self.exclude is not None))


def solve_pieces(
    query: Tensor, pieces: Pieces, smoothness: float, index: Tensor, start: Tensor | None = None
) -> WorkingSet:
    """Solve the program over the pieces at positions index (n, k), of queries (n, D), float64, from weights (n, k)."""
    features, offsets = pieces.take(index), pieces.offsets.detach()[index]
    center = features.mean(1, keepdim=True)
    centered = features - center
    # Up to a constant, <z_i, x> + c_i less the part of |z|^2 / 2L that is linear in the centered weights.
    slope = query.unsqueeze(1) - center / smoothness
    linear = (centered * slope).sum(2) + offsets
    linear = linear - linear.amax(1, keepdim=True)
    gram = centered @ centered.mT
    weights = solve_simplex_qp(gram / (2 * smoothness), linear, start=start)
    feature = (center + weights.unsqueeze(1) @ centered).squeeze(1)
    values = (features @ (query - feature / smoothness).unsqueeze(2)).squeeze(2) + offsets
    spread = gram.diagonal(dim1=1, dim2=2).amax(1) / smoothness
    rounding = values.abs().amax(1) + features.square().sum(2).amax(1) / smoothness
    return WorkingSet(index, weights, feature, (weights * values).sum(1), torch.maximum(spread, rounding))
