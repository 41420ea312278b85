"""Program (16) in the form its solvers need.

Every constraint of (16) is `v >= p_i + kappa |z - w_i|^2` with `w_i = z_i + a dx_i`, `dx_i = x - x_i` and
`p_i = u_i + b <z_i, dx_i> + c |dx_i|^2`. By strong duality its value is the maximum over the simplex of
`sum_i s_i p_i + kappa (sum_i s_i |w_i|^2 - |sum_i s_i w_i|^2)`, attained with `z = sum_i s_i w_i`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from otad_ray.cip.gram import GramBlocks
from otad_ray.cip.regularity import Regularity

CrossTerm = Literal["theory", "released"]
CROSS_TERMS: tuple[str, ...] = get_args(CrossTerm)


@dataclass(frozen=True)
class CipProgram:
    """One program (16) per row, in inner products of the centers `w_i` about their mean.

    centers_gram (B, K, K): `<w_i - m, w_j - m>` with `m = mean(w)`, float64.
    levels (B, K): `p_i`, float64, less `level_shift`.
    level_shift (B, 1): the largest `p_i`; subtracted because only differences decide the solution.
    kappa: `1 / (2 (L - l))`.
    displacement: `a`, the coefficient of `dx_i` in `w_i`.
    """

    centers_gram: Tensor
    levels: Tensor
    level_shift: Tensor
    kappa: float
    displacement: float

    @property
    def linear(self) -> Tensor:
        """`p_i + kappa |w_i - m|^2` (B, K), the linear term of the dual."""
        return self.levels + self.kappa * self.centers_gram.diagonal(dim1=1, dim2=2)

    def dual_value(self, weights: Tensor) -> Tensor:
        """The dual objective at `weights` (B, K), without the shift; a lower bound of the optimum."""
        quadratic = (weights * (self.centers_gram @ weights.unsqueeze(2)).squeeze(2)).sum(1)
        return (weights * self.linear).sum(1) - self.kappa * quadratic

    def primal_value(self, weights: Tensor) -> Tensor:
        """`max_i p_i + kappa |z - w_i|^2` at `z = sum_i s_i w_i`, without the shift; an upper bound."""
        products = (self.centers_gram @ weights.unsqueeze(2)).squeeze(2)
        quadratic = (weights * products).sum(1)
        return (self.linear - 2 * self.kappa * products).amax(1) + self.kappa * quadratic

    def scale(self) -> Tensor:
        """Size of the terms of the objective (B,), which residuals are relative to; 1 where all vanish."""
        spread = self.kappa * self.centers_gram.diagonal(dim1=1, dim2=2).amax(1)
        size = self.linear.amax(1) - self.linear.amin(1) + spread
        return torch.where(size > 0, size, torch.ones_like(size))


def cip_program(blocks: GramBlocks, potentials: Tensor, regularity: Regularity, cross_term: CrossTerm) -> CipProgram:
    """Program (16) from inner products and `potentials` (B, K).

    cross_term "theory" is the paper's (16); "released" the authors' code, in which `<z, dx_i>` has
    coefficient 1 where (16) has `2 c l / L`.
    """
    num_neighbors = blocks.num_neighbors
    displacement, inner, square = _level_coefficients(regularity, cross_term)
    points = blocks.points[:, :num_neighbors, :num_neighbors]
    features = blocks.features[:, :num_neighbors, :num_neighbors]
    cross = blocks.cross[:, :num_neighbors, :num_neighbors]

    # w_i - mean(w) = zc_i - a xc_i: the query drops out of the Gram matrix.
    centers_gram = features - displacement * (cross + cross.mT) + displacement**2 * points

    query_column = blocks.cross[:, :, num_neighbors]
    mean_row = blocks.cross[:, num_neighbors, :num_neighbors]
    # <z_i, dx_i> = <zc_i + zbar, q - xc_i>.
    feature_products = (
        query_column[:, :num_neighbors] + query_column[:, num_neighbors:] - cross.diagonal(dim1=1, dim2=2) - mean_row
    )
    squared_distances = (
        points.diagonal(dim1=1, dim2=2)
        + blocks.points[:, num_neighbors:, num_neighbors]
        - 2 * blocks.points[:, num_neighbors, :num_neighbors]
    )
    levels = potentials.double() + inner * feature_products + square * squared_distances
    shift = levels.detach().amax(1, keepdim=True)
    return CipProgram(centers_gram, levels - shift, shift, regularity.kappa, displacement)


def center_displacement(regularity: Regularity, cross_term: CrossTerm) -> float:
    """`a` in `w_i = z_i + a (x - x_i)`: `l` for the paper's cross term, `L - l` for the released one.

    `l` and `L` are those asked for: a relaxation concerns the potentials only.
    """
    return _level_coefficients(regularity, cross_term)[0]


def _level_coefficients(regularity: Regularity, cross_term: CrossTerm) -> tuple[float, float, float]:
    """`(a, b, c)` of the module's docstring."""
    low, high = regularity.strong_convexity, regularity.smoothness
    if cross_term == "theory":
        return low, 1.0, low / 2
    if cross_term == "released":
        return high - low, low / (high - low), high * low / (2 * (high - low)) - (high - low) / 2
    raise ValueError(f"unknown cross_term {cross_term!r}; known: {', '.join(CROSS_TERMS)}")
