"""How far a solved row's feature may lie from the exact solution of program (16)."""

import torch
from torch import Tensor

from otad_ray.certification.motion import isometry_defect
from otad_ray.cip import Regularity
from otad_ray.memory import NeighborMemory

# A row counts as solved up to a duality gap of 1e-9 of its scale; as much again for the rounding of potentials.
_RELATIVE_GAP = 2e-9
# Bytes of float64 neighbors held at a time: more would leave the processor's cache.
_BLOCK_BYTES = 1 << 20


def solver_error(
    memory: NeighborMemory,
    points: Tensor,
    neighbors: Tensor,
    potentials: Tensor,
    regularity: Regularity,
    *,
    within: Tensor,
) -> Tensor:
    """Bound (B,) float64 on `|z - z*|` within `within` (B,) of points (B, d), with their neighbors (B, K) kept.

    potentials (B, K): `u` of (15); where they are NaN the bound is 0, because the uniform mean is exact.

    Every constraint of (16) grows with `kappa |z|^2`, so `kappa |z - z*|^2` is at most the gap, which is relative to a
    scale of at most `range(p) + 2 kappa spread^2`, with `p_i = u_i + <z_i, dx_i> + (l/2) |dx_i|^2` and `spread` the
    largest `|w_i - mean(w)|`. As `grad p_i = w_i`, the range grows by at most `2 spread` a unit moved.

    Where points are coordinates that Q lifts, (16) is solved with their inner products in place of those of the lifted
    ones: an objective `sum_i s_i (l/2 |dx_i|^2 + kappa l^2 |x_i - sum_j s_j x_j|^2) + ...` that is off by at most
    `|Q'Q - I| far^2 (|l| / 2 + kappa l^2)`, with `far` the largest `|dx_i|`, and a gap that is off by twice that.
    """
    low, kappa = regularity.strong_convexity, regularity.kappa
    block = max(1, _BLOCK_BYTES // (8 * neighbors.shape[1] * memory.features.shape[1]))
    parts = [
        _sizes(memory, rows, near, levels.double(), low)
        for rows, near, levels in zip(points.split(block), neighbors.split(block), potentials.split(block), strict=True)
    ]
    spans, spreads, distances = (torch.cat(part) for part in zip(*parts, strict=True))
    scale = spans + 2 * spreads * within + 2 * kappa * spreads.square()
    lifted = isometry_defect(memory.point_space) * abs(low) * (1 + 2 * kappa * abs(low))
    gap = _RELATIVE_GAP * scale + lifted * (distances + within).square()
    return (gap / kappa).sqrt().nan_to_num(nan=0.0)


def _sizes(
    memory: NeighborMemory, points: Tensor, neighbors: Tensor, potentials: Tensor, low: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`range(p)`, `spread` and `far` (n,) of points (n, d) with neighbors (n, K) and `u_i` (n, K)."""
    offsets = points.double().unsqueeze(1) - memory.points[neighbors].double()
    features = memory.features[neighbors].double()
    steps = offsets if memory.point_space is None else memory.point_space.lift(offsets)
    squares = offsets.square().sum(2)
    levels = potentials.to(features) + (features * steps).sum(2) + 0.5 * low * squares
    centers = features + low * steps
    spread = (centers - centers.mean(1, keepdim=True)).norm(dim=2).amax(1)
    return levels.amax(1) - levels.amin(1), spread, squares.amax(1).sqrt()
