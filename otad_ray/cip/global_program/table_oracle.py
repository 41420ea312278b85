"""The oracle for few pieces: a table of the products between them, so that a round needs no product in D dimensions.

With the values `f_i(x)` of all pieces at the query, those at `w = x - sum_j s_j z_j / L` are
`f_i(x) - sum_j s_j <z_i, z_j> / L`: sums of a few rows of the table. All are in float64, so that gaps are exact up to
rounding.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from otad_ray.cip.global_program.pieces import Pieces
from otad_ray.cip.global_program.working_set import NEW_PIECES, WorkingSet
from otad_ray.cip.simplex_qp import solve_simplex_qp

# Pieces up to which the table is kept: 128 MB.
TABLE_PIECES = 4096


class TableOracle:
    """Takes sums of the rows of a table of all products `<z_i, z_j>`."""

    def __init__(self, query: Tensor, pieces: Pieces, smoothness: float, exclude: Tensor | None) -> None:
        """Measure all pieces at the queries.

        Args:
            query: x (B, D), float64 and finite.
            pieces: The pieces, at most `TABLE_PIECES`.
            smoothness: L.
            exclude: A piece (B,) for each row that does not count.
        """
        self._features, self._gram = pieces.exact_features, pieces.gram
        self._smoothness = smoothness
        self._available = len(pieces) - (exclude is not None)
        self._values = torch.addmm(pieces.offsets.detach(), query, self._features.T)
        if exclude is not None:
            self._values.scatter_(1, exclude.unsqueeze(1), -torch.inf)

    def find_first(self) -> Tensor:
        vertices = self._values - self._gram.diagonal() / (2 * self._smoothness)
        return vertices.topk(min(NEW_PIECES, self._available), dim=1).indices

    def solve(self, rows: Tensor, index: Tensor, start: Tensor | None) -> WorkingSet:
        gram = self._gram[index.unsqueeze(2), index.unsqueeze(1)]
        at_query = self._values[rows.unsqueeze(1), index]
        # Centered about the mean of the features, as differences between them are all that counts.
        mean = gram.mean(2)
        centered = gram - mean.unsqueeze(2) - mean.unsqueeze(1) + mean.mean(1).view(-1, 1, 1)
        linear = at_query - mean / self._smoothness
        linear = linear - linear.amax(1, keepdim=True)
        weights = solve_simplex_qp(centered / (2 * self._smoothness), linear, start=start)
        values = at_query - (gram @ weights.unsqueeze(2)).squeeze(2) / self._smoothness
        spread = centered.diagonal(dim1=1, dim2=2).amax(1) / self._smoothness
        rounding = values.abs().amax(1) + gram.diagonal(dim1=1, dim2=2).amax(1) / self._smoothness
        feature = _mix(self._features, index, weights)
        return WorkingSet(index, weights, feature, (weights * values).sum(1), torch.maximum(spread, rounding))

    def find_largest(self, rows: Tensor, current: WorkingSet) -> tuple[Tensor, Tensor]:
        mixed = _mix(self._gram, current.pieces, current.weights)
        values = torch.sub(self._values[rows], mixed, alpha=1 / self._smoothness)
        largest, found = values.topk(min(current.largest_support + NEW_PIECES, self._available), dim=1)
        return found, (largest[:, 0] - current.level).clamp_min(0)

    def measure_gap(self, rows: Tensor, current: WorkingSet) -> Tensor:
        return self.find_largest(rows, current)[1]


def _mix(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return `sum_j s_j t_j` (n, E) of rows t of a table (M, E), at positions index (n, k) with weights s (n, k)."""
    used = weights > 0
    counts = used.sum(1)
    return embedding_bag(index[used], table, counts.cumsum(0) - counts, mode="sum", per_sample_weights=weights[used])
