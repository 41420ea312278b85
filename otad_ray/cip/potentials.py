"""Values of a Brenier potential at the neighbors, inequality (15), as longest paths.

Inequality (15) reads `u_i >= u_j + C_ij` for all i, j: a system of difference constraints, feasible
exactly when the digraph with weights `C_ij` has no cycle of positive weight. Its least solution with
`u >= 0` is the longest path ending in each neighbor. That solution is canonical here: it attains the
optimum of the linear program `min max_i u_i` and, unlike it, is unique.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.cip.gram import GramBlocks, check_neighborhoods, gram_blocks
from otad_ray.cip.regularity import Regularity


@dataclass(frozen=True)
class Potentials:
    """Potentials of B neighborhoods and the regularity at which they exist.

    potentials (B, K): least values `u >= 0` with (15), float64; NaN where there are none.
    smoothness_used, strong_convexity_used (B,): `L_t` and `l_t` after the relaxations.
    relaxations (B,): number of relaxations, int64.
    feasible (B,): whether potentials were found within `max_relaxations`.
    """

    potentials: Tensor
    smoothness_used: Tensor
    strong_convexity_used: Tensor
    relaxations: Tensor
    feasible: Tensor


def brenier_potentials(points: Tensor, features: Tensor, regularity: Regularity) -> Potentials:
    """Potentials of `points` (B, K, D) with gradients `features` (B, K, D), inequality (15).

    The regularity is relaxed per row, as in Algorithm 2, to the first step at which potentials exist.
    Differentiable in points and features (a subgradient: the longest paths'). Raises ValueError for shapes or
    dtypes that do not fit.
    """
    check_neighborhoods(points, features)
    return potentials_from_gram(gram_blocks(None, points, features), regularity)


def potentials_from_gram(blocks: GramBlocks, regularity: Regularity) -> Potentials:
    """`brenier_potentials` on inner products."""
    with torch.no_grad():
        relaxations, feasible = _first_feasible(blocks, regularity)
    smoothness, strong_convexity = _relaxed(regularity, relaxations)
    potentials = _longest_paths(_difference_bounds(blocks, smoothness, strong_convexity))
    potentials = torch.where(feasible.unsqueeze(1), potentials, torch.nan)
    return Potentials(potentials, smoothness, strong_convexity, relaxations.long(), feasible)


def _first_feasible(blocks: GramBlocks, regularity: Regularity) -> tuple[Tensor, Tensor]:
    """First feasible relaxation step of each row, float64, and whether there is one.

    Bisection: feasibility is monotone in the relaxation, because a function that is l-strongly convex
    and L-smooth is so for every smaller l and larger L.
    """
    num_rows = blocks.points.shape[0]
    steps = torch.zeros(num_rows, dtype=torch.float64, device=blocks.points.device)
    feasible = _is_feasible(blocks, regularity, steps)
    remaining = (~feasible).nonzero().squeeze(1)
    if remaining.numel() == 0:
        return steps, feasible
    last = float(regularity.max_relaxations)
    steps[remaining] = last
    feasible[remaining] = _is_feasible(blocks.rows(remaining), regularity, steps[remaining])
    remaining = remaining[feasible[remaining]]

    inside = blocks.rows(remaining)
    infeasible_at = torch.zeros_like(steps[remaining])
    feasible_at = torch.full_like(infeasible_at, last)
    while bool((feasible_at - infeasible_at > 1).any()):
        middle = torch.div(infeasible_at + feasible_at, 2, rounding_mode="floor")
        holds = _is_feasible(inside, regularity, middle)
        # A closed interval (length 1) has middle == infeasible_at, where nothing holds: it stays.
        infeasible_at = torch.where(holds, infeasible_at, middle)
        feasible_at = torch.where(holds & (middle > infeasible_at), middle, feasible_at)
    steps[remaining] = feasible_at
    return steps, feasible


def _relaxed(regularity: Regularity, steps: Tensor) -> tuple[Tensor, Tensor]:
    """`L_t` and `l_t` after `steps` (B,) relaxations; float64 in, float64 out."""
    smoothness = regularity.smoothness + steps * regularity.relax_smoothness
    return smoothness, regularity.strong_convexity - steps * regularity.relax_strong_convexity


def _is_feasible(blocks: GramBlocks, regularity: Regularity, steps: Tensor) -> Tensor:
    smoothness, strong_convexity = _relaxed(regularity, steps)
    bounds = _difference_bounds(blocks, smoothness, strong_convexity)
    potentials = _longest_paths(bounds)
    residual = (potentials.unsqueeze(1) + bounds - potentials.unsqueeze(2)).amax((1, 2))
    return residual <= _rounding_tolerance(blocks, smoothness, strong_convexity)


def _difference_bounds(blocks: GramBlocks, smoothness: Tensor, strong_convexity: Tensor) -> Tensor:
    """`C_ij = <z_j, x_i - x_j> + (l/2) |x_i - x_j|^2 + kappa |y_i - y_j|^2`, with `y = z - l x`; (B, K, K)."""
    num_neighbors = blocks.num_neighbors
    cross = blocks.cross[:, :num_neighbors, :num_neighbors]
    # Centering the features shifts <z_j, x_i - x_j> by <zbar, x_i - x_j>: the tilt adds that back.
    tilt = blocks.cross[:, num_neighbors, :num_neighbors]
    linear = cross.mT - _diagonal(cross).unsqueeze(1) + tilt.unsqueeze(2) - tilt.unsqueeze(1)

    points = _squared_distances(blocks.points[:, :num_neighbors, :num_neighbors])
    features = _squared_distances(blocks.features[:, :num_neighbors, :num_neighbors])
    mixed = _squared_distances(0.5 * (cross + cross.mT))
    low = strong_convexity.view(-1, 1, 1)
    kappa = 0.5 / (smoothness - strong_convexity).view(-1, 1, 1)
    residual = features - 2 * low * mixed + low**2 * points
    bounds = linear + 0.5 * low * points + kappa * residual
    # Exactly zero in theory; rounding there would look like a positive cycle of length one.
    return bounds * (1 - torch.eye(num_neighbors, dtype=bounds.dtype, device=bounds.device))


def _squared_distances(gram: Tensor) -> Tensor:
    diagonal = _diagonal(gram)
    return diagonal.unsqueeze(1) + diagonal.unsqueeze(2) - 2 * gram


def _diagonal(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=1, dim2=2)


def _longest_paths(bounds: Tensor) -> Tensor:
    """`K - 1` rounds of `u_i <- max(u_i, max_j u_j + C_ij)` from zero; the diagonal of C keeps `u_i`.

    Not Floyd-Warshall: on cycles of weight zero that amplifies rounding by about 2^K.
    """
    potentials = torch.zeros_like(bounds[:, 0])
    for _ in range(bounds.shape[-1] - 1):
        potentials = (potentials.unsqueeze(1) + bounds).amax(2)
    return potentials


def _rounding_tolerance(blocks: GramBlocks, smoothness: Tensor, strong_convexity: Tensor) -> Tensor:
    """How far a residual of (15) may be above zero from rounding alone, (B,)."""
    num_neighbors = blocks.num_neighbors
    points = _diagonal(blocks.points)[:, :num_neighbors]
    features = _diagonal(blocks.features)
    centered, mean = features[:, :num_neighbors], features[:, num_neighbors:]
    mixed = _diagonal(blocks.cross)[:, :num_neighbors]
    low = strong_convexity.unsqueeze(1)
    residual = (centered - 2 * low * mixed + low**2 * points).amax(1)

    point_norm = points.amax(1).clamp_min(0).sqrt()
    centered_norm = centered.amax(1).clamp_min(0).sqrt()
    # |z_i| <= |zbar| + |zc_i|: the features' own size, which their rounding on input is relative to.
    feature_norm = centered_norm + mean.squeeze(1).clamp_min(0).sqrt()
    scale = (
        centered_norm * point_norm + strong_convexity.abs() * point_norm**2 + residual / (smoothness - strong_convexity)
    )
    epsilon = torch.finfo(torch.float64).eps
    return 32 * epsilon * scale + 4 * blocks.input_epsilon * feature_norm * point_norm
