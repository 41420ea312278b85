"""Cutting planes: the proximal point of a maximum of many affine pieces, of which only a few are looked at.

    w(x) = argmin over w of  max_i f_i(w) + (L/2) |x - w|^2,   z(x) = L (x - w(x)) = sum_i s_i z_i

Over a working set of pieces the weights `s` solve a small program on the simplex. The pieces of largest value at the
`w` that it gives join the set, and those without weight leave it, until none of all N pieces is above
`sum_i s_i f_i(w)`. Every round raises the dual value, so that no working set comes back.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from otad_ray.cip.global_program.pieces import Largest, Pieces
from otad_ray.cip.simplex_qp import solve_simplex_qp

# Pieces that join a working set in a round.
_NEW_PIECES = 8


class WorkingSet(NamedTuple):
    """The solution over a few pieces, of n rows.

    Attributes:
        pieces: Positions of the pieces (n, k); a piece may be repeated.
        weights: `s` (n, k) on the simplex.
        feature: `z = sum_i s_i z_i` (n, D), float64.
        level: `sum_i s_i f_i(w)` (n,) at `w = x - z / L`.
        size: Size of the values (n,), which gaps are relative to.
    """

    pieces: Tensor
    weights: Tensor
    feature: Tensor
    level: Tensor
    size: Tensor

    def take(self, rows: Tensor) -> "WorkingSet":
        """Return some of the rows."""
        return WorkingSet(*(tensor[rows] for tensor in self))


@dataclass(frozen=True, kw_only=True)
class CuttingPlanes:
    """The solver of the global program.

    Attributes:
        tolerance: The largest gap, relative to the size of the values, of a row that counts as solved.
        max_rounds: Rounds after which a row is given up.
        finished: The gap, relative to the size of the values, at which a row is left as it is: some roundings.
    """

    tolerance: float = 1e-10
    max_rounds: int = 60
    finished: float = 1e-12

    def solve(
        self,
        query: Tensor,
        pieces: Pieces,
        smoothness: float,
        exclude: Tensor | None = None,
        first: Tensor | None = None,
    ) -> tuple[WorkingSet, Tensor]:
        """Solve B rows.

        Args:
            query: x (B, D), float64 and finite.
            pieces: The pieces.
            smoothness: L.
            exclude: A piece (B,) for each row that does not count.
            first: Pieces (B, k) to begin with, such as those of a solution nearby; by default the largest ones at x.

        Returns:
            The solution over the last working set, and its gap over all N pieces (B,): a bound on
            `max_i f_i(w) - sum_i s_i f_i(w)`.
        """
        rows = torch.arange(len(query), device=query.device)
        if first is None:
            available = len(pieces) - (exclude is not None)
            first = pieces.find_largest(query, min(_NEW_PIECES, available), exclude).pieces
        current = solve_pieces(query, pieces, smoothness, first)
        finished: list[tuple[Tensor, WorkingSet, Tensor]] = []
        for _ in range(self.max_rounds):
            left_out = None if exclude is None else exclude[rows]
            places = query[rows] - current.feature / smoothness
            found, gap = self._search(places, pieces, current, left_out)
            done = gap <= self.finished * current.size
            if bool(done.any()):
                finished.append((rows[done], current.take(done), gap[done]))
                rows, current, gap = rows[~done], current.take(~done), gap[~done]
                found = Largest(*(tensor[~done] for tensor in found))
            if not len(rows):
                break
            current = solve_pieces(query[rows], pieces, smoothness, _next_pieces(current, found.pieces))
        else:
            # The gap of rows that are given up is over all pieces too.
            places = query[rows] - current.feature / smoothness
            exact = pieces.find_largest_exactly(places, 1, None if exclude is None else exclude[rows])
            gap = torch.maximum(exact.values[:, 0], exact.bound) - current.level
            finished.append((rows, current, gap.clamp_min(0)))
        return _assemble(finished, query)

    def _search(
        self, places: Tensor, pieces: Pieces, current: WorkingSet, exclude: Tensor | None
    ) -> tuple[Largest, Tensor]:
        """Find the largest pieces at places w (n, D), and the gap (n,) of the current solution over all pieces."""
        # Those that have weight come first, and as many others are wanted.
        support = int((current.weights > 0).sum(1).amax()) if len(places) else 0
        count = min(support + _NEW_PIECES, len(pieces) - (exclude is not None))
        found = pieces.find_largest(places, count, exclude)
        enough = self.finished * current.size
        largest = found.values.amax(1)
        gap, bound = largest - current.level, torch.maximum(largest, found.bound) - current.level
        # Where the products leave open whether another piece is larger, all are measured, once nothing else is to do.
        open_rows = ((gap <= enough) & (bound > enough)).nonzero().squeeze(1)
        gap = torch.where(gap <= enough, bound, gap)
        if len(open_rows):
            left_out = None if exclude is None else exclude[open_rows]
            exact = pieces.find_largest_exactly(places[open_rows], count, left_out)
            found.pieces[open_rows] = exact.pieces
            gap[open_rows] = torch.maximum(exact.values.amax(1), exact.bound) - current.level[open_rows]
        return found, gap.clamp_min(0)


def solve_pieces(query: Tensor, pieces: Pieces, smoothness: float, index: Tensor) -> WorkingSet:
    """Solve the program over the pieces at positions index (n, k), of queries (n, D), float64."""
    features = pieces.take(index)
    center = features.mean(1, keepdim=True)
    centered = features - center
    # Up to a constant, <z_i, x> + c_i less the part of |z|^2 / 2L that is linear in the centered weights.
    slope = query.unsqueeze(1) - center / smoothness
    linear = (centered * slope).sum(2) + pieces.offsets.detach()[index]
    linear = linear - linear.amax(1, keepdim=True)
    gram = centered @ centered.mT
    weights = solve_simplex_qp(gram / (2 * smoothness), linear)
    feature = (center + weights.unsqueeze(1) @ centered).squeeze(1)
    values = (features @ (query - feature / smoothness).unsqueeze(2)).squeeze(2) + pieces.offsets.detach()[index]
    spread = gram.diagonal(dim1=1, dim2=2).amax(1) / smoothness
    rounding = values.abs().amax(1) + (features.square().sum(2).amax(1) / smoothness)
    return WorkingSet(index, weights, feature, (weights * values).sum(1), torch.maximum(spread, rounding))


def _next_pieces(current: WorkingSet, found: Tensor) -> Tensor:
    """Return the positions (n, k) of the pieces that have weight, and of the new ones of found (n, m)."""
    known = (found.unsqueeze(2) == current.pieces.unsqueeze(1)) & (current.weights > 0).unsqueeze(1)
    # Old pieces rank by weight, above the new ones in the order in which they were found.
    order = torch.arange(found.shape[1], device=found.device).expand_as(found)
    new_rank = torch.where(known.any(2), -torch.inf, -1.0 - order.double())
    old_rank = torch.where(current.weights > 0, current.weights, -torch.inf)
    rank, index = torch.cat([old_rank, new_rank], 1), torch.cat([current.pieces, found], 1)
    width = min(int((current.weights > 0).sum(1).amax()) + _NEW_PIECES, index.shape[1])
    best, place = rank.topk(width, dim=1)
    chosen = index.gather(1, place)
    # Rows with fewer pieces repeat their heaviest one, which changes nothing.
    return torch.where(torch.isfinite(best), chosen, chosen[:, :1])


def _assemble(finished: list[tuple[Tensor, WorkingSet, Tensor]], query: Tensor) -> tuple[WorkingSet, Tensor]:
    """Return the rows in their order, with working sets padded to one width by pieces without weight."""
    width = max((part.pieces.shape[1] for _, part, _ in finished), default=1)
    count = len(query)
    index = torch.zeros(count, width, dtype=torch.int64, device=query.device)
    weights = query.new_zeros(count, width)
    feature, level, size = torch.empty_like(query), query.new_empty(count), query.new_empty(count)
    gaps = query.new_empty(count)
    for rows, part, gap in finished:
        padded = width - part.pieces.shape[1]
        index[rows] = torch.cat([part.pieces, part.pieces[:, :1].expand(-1, padded)], 1)
        weights[rows] = torch.cat([part.weights, part.weights.new_zeros(len(rows), padded)], 1)
        feature[rows], level[rows], size[rows], gaps[rows] = part.feature, part.level, part.size, gap
    return WorkingSet(index, weights, feature, level, size), gaps
