"""How far a solved row's feature may lie from the exact solution of program (16)."""

import torch
from torch import Tensor

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
    """Bound (B,) float64 on `|z - z*|` within `within` (B,) of points (B, D), with their neighbors (B, K) kept.

    potentials (B, K): `u` of (15); where they are NaN the bound is 0, because the uniform mean is exact.

    Every constraint of (16) grows with `kappa |z|^2`, so `kappa |z - z*|^2` is at most the gap, which is relative to a
    scale of at most `range(p) + 2 kappa spread^2`, with `p_i = u_i + <z_i, dx_i> + (l/2) |dx_i|^2` and `spread` the
    largest `|w_i - mean(w)|`. As `grad p_i = w_i`, the range grows by at most `2 spread` a unit moved.
    """
    block = max(1, _BLOCK_BYTES // (8 * neighbors.shape[1] * points.shape[1]))
    parts = []
    for rows, near, levels in zip(points.split(block), neighbors.split(block), potentials.split(block), strict=True):
        offsets = rows.double().unsqueeze(1) - memory.points[near].double()
        features = memory.features[near].double()
        parts.append(_range_and_spread(offsets, features, levels.to(features), regularity.strong_convexity))
    spans, spreads = (torch.cat(part) for part in zip(*parts, strict=True))
    scale = spans + 2 * spreads * within + 2 * regularity.kappa * spreads.square()
    return (_RELATIVE_GAP * scale / regularity.kappa).sqrt().nan_to_num(nan=0.0)


def _range_and_spread(offsets: Tensor, features: Tensor, potentials: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """`range(p)` and `spread` (n,) from `dx_i`, `z_i` (n, K, D) and `u_i` (n, K)."""
    levels = potentials + (features * offsets).sum(2) + 0.5 * low * offsets.square().sum(2)
    centers = features + low * offsets
    spread = (centers - centers.mean(1, keepdim=True)).norm(dim=2).amax(1)
    return levels.amax(1) - levels.amin(1), spread
