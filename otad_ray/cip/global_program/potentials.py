"""Potentials of all training points, by weighted least squares on a graph of neighbors.

Inequality (15) bounds `u_i - u_j` from both sides; the middle of the bounds is `<z_i + z_j, x_i - x_j> / 2` at `l = 0`,
the trapezoidal rule for the potential's change along the edge. Each edge of the graph is an equation with the weight
`1 / |x_i - x_j|^2`. Edges to the nearest points are the exact ones, and random edges connect the whole.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from otad_ray.errors import InputError

_BLOCK_BYTES = 64 << 20
# The square of the length below which an edge counts no more, relative to the mean square.
_SHORTEST = 1e-6
_TOLERANCE = 1e-8
_MAX_STEPS = 2000


def fit_potentials(
    points: Tensor, features: Tensor, neighbors: Tensor, *, num_random: int = 10, seed: int = 0
) -> Tensor:
    """Fit potentials to points and features by weighted least squares.

    Args:
        points: x (N, D), float32 or float64.
        features: z (N, D), the wanted gradients of the potential at the points.
        neighbors: Positions (N, K) of points near each point.
        num_random: Random points that each point is compared with as well, so that the graph is connected.
        seed: Of the random pairs.

    Returns:
        The potentials u (N,), float64, with mean zero. Points that coincide get the same potential, whatever their
        features: near them the feature of the global program is then a mixture of theirs.

    Raises:
        InputError: For shapes that do not agree, and for values that are not finite.
    """
    _check(points, features, neighbors)
    ends = _edges(neighbors, num_random, seed)
    differences, squares = measure_edges(points, features, ends)
    return solve_least_squares(len(points), ends, differences, squares)


def measure_edges(
    points: Tensor, features: Tensor, ends: Tensor, project: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return `<z_i + z_j, x_i - x_j> / 2` and `|x_i - x_j|^2` (E,), float64.

    Args:
        points: x (N, d), or their coordinates in orthonormal bases of a smaller space.
        features: z (N, D).
        ends: The rows i and j (E, 2) of each edge.
        project: The map from features to that smaller space; without one, `d = D`.
    """
    block = max(1, _BLOCK_BYTES // (8 * 4 * features.shape[1]))
    parts = []
    for pairs in ends.split(block):
        first, second = pairs.unbind(1)
        step = points[first].double() - points[second].double()
        mean = (features[first].double() + features[second].double()) / 2
        mean = mean if project is None else project(mean)
        parts.append(torch.stack([(mean * step).sum(1), step.square().sum(1)]))
    found = torch.cat(parts, 1)
    return found[0], found[1]


def solve_least_squares(count: int, ends: Tensor, differences: Tensor, squares: Tensor) -> Tensor:
    """Return u (N,) that minimizes `sum_e (u_i - u_j - d_e)^2 / |x_i - x_j|^2`, of mean zero, by conjugate gradients.

    Args:
        count: N.
        ends: The i and j (E, 2) of each edge.
        differences: `d` (E,), float64.
        squares: `|x_i - x_j|^2` (E,), float64; very short edges count as if they were longer.
    """
    import numpy as np
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import cg

    if not len(ends):
        return torch.zeros(count, dtype=torch.float64, device=ends.device)
    shortest = max(_SHORTEST * float(squares.mean()), torch.finfo(torch.float64).tiny)
    weight = (1 / squares.clamp_min(shortest)).sqrt().cpu().numpy()
    edges = np.arange(len(ends)).repeat(2)
    entries = (np.array([[1.0, -1.0]]) * weight[:, None]).ravel()
    incidence = csr_array((entries, (edges, ends.cpu().numpy().ravel())), shape=(len(ends), count))
    normal = csr_array(incidence.T @ incidence)
    right = incidence.T @ (weight * differences.cpu().numpy())
    diagonal = normal.diagonal()
    scaling = diags_array(1 / np.where(diagonal > 0, diagonal, 1.0))
    found, _ = cg(normal, right, rtol=_TOLERANCE, maxiter=_MAX_STEPS, M=scaling)
    return torch.from_numpy(found - found.mean()).to(differences)


def find_neighbors(points: Tensor, count: int) -> Tensor:
    """Return the positions (N, K) of the nearest other points, by plain products; ties fall either way."""
    block = max(1, _BLOCK_BYTES // (points.element_size() * len(points)))
    squares = points.square().sum(1)
    parts = []
    for start in range(0, len(points), block):
        products = torch.addmm(squares, points[start : start + block], points.T, alpha=-2)
        products.diagonal(start).fill_(torch.inf)
        parts.append(products.topk(min(count, len(points) - 1), dim=1, largest=False).indices)
    return torch.cat(parts)


def _edges(neighbors: Tensor, num_random: int, seed: int) -> Tensor:
    """Return the two ends (E, 2) of the edges to neighbors (N, K) and to random points."""
    count = len(neighbors)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(count, (count, num_random), generator=generator).to(neighbors.device)
    others = torch.cat([neighbors, random], 1)
    own = torch.arange(count, device=neighbors.device).unsqueeze(1).expand_as(others)
    ends = torch.stack([own.flatten(), others.flatten()], 1)
    return ends[ends[:, 0] != ends[:, 1]]


def _check(points: Tensor, features: Tensor, neighbors: Tensor) -> None:
    check_pairs(points, features)
    if neighbors.dim() != 2 or len(neighbors) != len(points):
        raise InputError(f"neighbors must be (N, K) for N = {len(points)} points, got {tuple(neighbors.shape)}")
    if neighbors.numel() and not 0 <= int(neighbors.min()) <= int(neighbors.max()) < len(points):
        raise InputError(f"neighbors must be positions of {len(points)} points, got others")


def check_pairs(points: Tensor, features: Tensor) -> None:
    """Raise InputError unless points and features are (N, D), of one dtype, and finite."""
    if points.dim() != 2 or 0 in points.shape or points.shape != features.shape:
        raise InputError(
            f"points and gradients must be (N, D) and agree, got {tuple(points.shape)} and {tuple(features.shape)}"
        )
    if points.dtype != features.dtype or points.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"points and gradients must both be float32 or float64, got {points.dtype} and {features.dtype}"
        )
    for name, rows in (("points", points), ("gradients", features)):
        finite = torch.isfinite(rows).all(1)
        if not bool(finite.all()):
            raise InputError(f"{name} hold NaN or infinite values, first in row {int((~finite).nonzero()[0])}")
