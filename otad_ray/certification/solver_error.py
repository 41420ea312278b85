"""How far a solved row's feature may lie from the exact solution of program (16)."""

from torch import Tensor

from otad_ray.cip import Regularity, Solution
from otad_ray.memory import NeighborMemory

# A row counts as solved up to a duality gap of 1e-9 of its scale; as much again for the rounding of potentials.
_RELATIVE_GAP = 2e-9


def solver_error(
    memory: NeighborMemory,
    points: Tensor,
    neighbors: Tensor,
    solution: Solution,
    regularity: Regularity,
    within: Tensor,
) -> Tensor:
    """Bound (B,) float64 on `|z - z*|` within `within` (B,) of points (B, D) with the neighbors (B, K) kept.

    Each constraint of (16) grows with `kappa |z|^2`, so `kappa |z - z*|^2` is at most the gap. Its scale is at most
    `range(p) + 2 kappa spread^2` with `p` of DESIGN 1.3, and as `grad p_i = w_i` the range grows by at most
    `2 spread` a unit moved. 0 where there are no potentials: the uniform mean is exact.
    """
    low, kappa = regularity.strong_convexity, regularity.kappa
    offsets = points.double().unsqueeze(1) - memory.points[neighbors].double()
    features = memory.features[neighbors].double()
    potentials = solution.potentials.to(offsets)
    levels = potentials + (features * offsets).sum(2) + 0.5 * low * offsets.square().sum(2)
    centers = features + low * offsets
    spread = (centers - centers.mean(1, keepdim=True)).norm(dim=2).amax(1)
    scale = levels.amax(1) - levels.amin(1) + 2 * spread * within + 2 * kappa * spread.square()
    return (_RELATIVE_GAP * scale / kappa).sqrt().nan_to_num(nan=0.0)
