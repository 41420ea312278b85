"""Cutting planes: the proximal point of a maximum of many affine pieces, of which only a few are looked at.

    w(x) = argmin over w of  max_i f_i(w) + (L/2) |x - w|^2,   z(x) = L (x - w(x)) = sum_i s_i z_i

Over a working set of pieces the weights `s` solve a small program on the simplex. The pieces of largest value at the
`w` that it gives join the set, and those without weight leave it, until none of all N pieces is above
`sum_i s_i f_i(w)`. Every round raises the dual value, so that no working set comes back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.cip.global_program.pieces import Pieces
from otad_ray.cip.global_program.product_oracle import ProductOracle
from otad_ray.cip.global_program.table_oracle import TABLE_PIECES, TableOracle
from otad_ray.cip.global_program.working_set import NEW_PIECES, Oracle, WorkingSet


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
            first: Pieces (B, k) to begin with, as of a solution nearby; by default those best alone.

        Returns:
            The solution over the last working set, and its gap over all N pieces (B,): a bound on
            `max_i f_i(w) - sum_i s_i f_i(w)`.
        """
        oracle = self._make_oracle(query, pieces, smoothness, exclude)
        rows = torch.arange(len(query), device=query.device)
        current = oracle.solve(rows, oracle.find_first() if first is None else first, None)
        finished: list[tuple[Tensor, WorkingSet, Tensor]] = []
        for _ in range(self.max_rounds):
            if len(rows) == 0:
                break
            found, gap = oracle.find_largest(rows, current)
            done = gap <= self.finished * current.size
            if bool(done.any()):
                finished.append((rows[done], current.take(done), gap[done]))
                rows, current, found = rows[~done], current.take(~done), found[~done]
            current = oracle.solve(rows, *_next_pieces(current, found))
        else:
            # The gap of rows that are given up is over all pieces too.
            finished.append((rows, current, oracle.measure_gap(rows, current)))
        return _assemble(finished, query)

    def _make_oracle(self, query: Tensor, pieces: Pieces, smoothness: float, exclude: Tensor | None) -> Oracle:
        """Return the oracle that is faster for so many pieces."""
        if len(pieces) <= TABLE_PIECES:
            return TableOracle(query, pieces, smoothness, exclude)
        return ProductOracle(query, pieces, smoothness, exclude, self.finished)


def _next_pieces(current: WorkingSet, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions (n, k) of the pieces with weight and of the new ones of found (n, m), and their weights."""
    known = (found.unsqueeze(2) == current.pieces.unsqueeze(1)) & (current.weights > 0).unsqueeze(1)
    # Old pieces rank by weight, above the new ones in the order in which they were found.
    order = torch.arange(found.shape[1], device=found.device).expand_as(found)
    new_rank = torch.where(known.any(2), -torch.inf, -1.0 - order.double())
    old_rank = torch.where(current.weights > 0, current.weights, -torch.inf)
    rank, index = torch.cat([old_rank, new_rank], 1), torch.cat([current.pieces, found], 1)
    best, place = rank.topk(min(current.largest_support + NEW_PIECES, index.shape[1]), dim=1)
    chosen = index.gather(1, place)
    # Rows with fewer pieces repeat their heaviest one, which changes nothing.
    return torch.where(torch.isfinite(best), chosen, chosen[:, :1]), best.clamp_min(0)


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
