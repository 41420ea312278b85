"""How far an input must move before a training point enters its neighbors.

Rounding. Points and inputs are float32, and their differences and squared distances are formed in float64, here and in
the exact search alike: a squared distance is right to the fraction `g = (D + 8) 2^-52` of itself. Within the radius
`t_ij` proven below no distance exceeds `2 d_j`, so that the search can take `i` for the farther of the two only if
`d_i'^2 (1 + g) >= d_j'^2 (1 - g)`, which `10 g d_j^2` covers together with the error of the distances at the input.
"""

import math

import torch
from torch import Tensor

# Points measured first, and then at a time: few samples need more than the first.
_FIRST = 32
_MORE = 256


class Bisectors:
    """Radii around an input `x` (D,) below which a point `j` has at least `rank` of the points `i` nearer than itself.

    nearer (S, D): the points `i`; `j` itself may be among them and does not count.
    """

    def __init__(self, query: Tensor, nearer: Tensor, rank: int) -> None:
        self._query = query.double()
        self._nearer = nearer.double() - self._query
        self._nearer_squared = self._nearer.square().sum(1)
        self._rank = rank
        self._rounding = distance_rounding(len(query))

    def radii(self, points: Tensor) -> Tensor:
        """`T_j` (n,) float64 of points (n, D): the `rank`-th largest of
        `t_ij = max(0, (d_j^2 - d_i^2) / (2 |x_i - x_j|))`; 0 where there are fewer than `rank` points `i`.
        """
        if len(self._nearer) < self._rank:
            return torch.zeros(len(points), dtype=torch.float64, device=points.device)
        entering = points.double() - self._query
        squared = entering.square().sum(1, keepdim=True)
        gaps = squared * (1 - 10 * self._rounding) - self._nearer_squared
        sums = squared + self._nearer_squared
        # Never less than |x_i - x_j|^2, which differences of large terms would lose digits of.
        apart = (sums - 2 * entering @ self._nearer.T).clamp_min(0) + 4 * self._rounding * sums
        radii = gaps.clamp_min(0) / (2 * apart.clamp_min(torch.finfo(torch.float64).tiny).sqrt())
        return radii.topk(self._rank, dim=1).values[:, -1]


def least_radius(bisectors: Bisectors, points: Tensor, bounds: Tensor) -> float:
    """Least over all points (N, D) of `max(T_j, bounds_j)`; bounds (N,) is used up.

    bounds: lower bounds of the radius from which `j` may matter. Points whose bound exceeds the least radius found
    are not measured; infinite bounds leave points out.
    """
    low, rows = bounds.topk(min(_FIRST, len(bounds)), largest=False)
    least = _least_of(bisectors, points, rows, low)
    bounds[rows] = math.inf
    rest = (bounds < least).nonzero().squeeze(1)
    low, order = bounds[rest].sort()
    for low_block, rows in zip(low.split(_MORE), rest[order].split(_MORE), strict=True):
        # Ascending; of no points there is one empty block.
        if len(rows) == 0 or float(low_block[0]) >= least:
            break
        least = min(least, _least_of(bisectors, points, rows, low_block))
    return least


def distance_rounding(dimension: int) -> float:
    """`g`, of which fraction a squared distance in float64 errs at most."""
    return (dimension + 8) * torch.finfo(torch.float64).eps


def _least_of(bisectors: Bisectors, points: Tensor, rows: Tensor, bounds: Tensor) -> float:
    rows, bounds = rows[bounds < math.inf], bounds[bounds < math.inf]
    if len(rows) == 0:
        return math.inf
    return float(torch.maximum(bisectors.radii(points.index_select(0, rows)), bounds.double()).min())
