"""Convex integration problems for tests, always at queries that are not among the points."""

import cvxpy
import numpy as np
import torch
from torch import Tensor


def neighborhoods(
    rows: int, num_neighbors: int, dimension: int, *, seed: int = 0, roughness: float = 0.3
) -> tuple[Tensor, Tensor, Tensor]:
    """query (B, D), points and features (B, K, D), float64: a rough monotone map of points of unit size."""
    generator = torch.Generator().manual_seed(seed)
    size = dimension**0.5
    points = torch.randn(rows, num_neighbors, dimension, generator=generator, dtype=torch.float64) / size
    features = 1.1 * points + roughness * torch.sin(3 * size * points) / size
    step = 0.4 * torch.randn(rows, dimension, generator=generator, dtype=torch.float64) / size
    return points.mean(1) + step, points, features


def primal_by_clarabel(
    query: np.ndarray,
    points: np.ndarray,
    features: np.ndarray,
    potentials: np.ndarray,
    *,
    smoothness: float,
    strong_convexity: float,
    cross_coefficient: float | None = None,
) -> tuple[float, np.ndarray]:
    """Program (16) of one row as the paper prints it: its value and feature.

    cross_coefficient: of `<z, x - x_i>`, `2 c l / L` in the paper; 1 in the authors' code.
    """
    if len(query) > 2 * len(points) + 1:
        # The program knows lengths and angles only: Clarabel solves it in coordinates of the span of what it is given.
        basis = np.linalg.qr(np.vstack([query, points, features]).T)[0]
        value, feature = primal_by_clarabel(
            query @ basis,
            points @ basis,
            features @ basis,
            potentials,
            smoothness=smoothness,
            strong_convexity=strong_convexity,
            cross_coefficient=cross_coefficient,
        )
        return value, basis @ feature
    ratio = strong_convexity / smoothness
    c = 1 / (2 * (1 - ratio))
    paper_coefficient = 2 * c * ratio
    extra = 0.0 if cross_coefficient is None else paper_coefficient - cross_coefficient
    # The variable is the offset from the mean feature, and steps are short: without either Clarabel stops a digit
    # before the features are as good as the tests ask.
    value, feature = cvxpy.Variable(), cvxpy.Variable(len(query)) + features.mean(0)
    constraints = []
    for point, target, potential in zip(points, features, potentials, strict=True):
        step = query - point
        bracket = (
            cvxpy.sum_squares(feature - target) / smoothness
            + strong_convexity * (step @ step)
            - 2 * ratio * ((target - feature) @ (point - query))
        )
        constraints.append(value >= potential + target @ step + c * bracket + extra * (feature @ step))
    problem = cvxpy.Problem(cvxpy.Minimize(value), constraints)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12, max_step_fraction=0.9)
    return float(problem.value), np.asarray(feature.value)


def exhaustive_dual(quadratic: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Maximizer of `<b, s> - s' H s` on the simplex by trying every support."""
    size = len(linear)
    best, best_value = np.zeros(size), -np.inf
    for mask in range(1, 2**size):
        support = np.array([index for index in range(size) if mask >> index & 1])
        system = np.zeros((len(support) + 1, len(support) + 1))
        system[:-1, :-1] = 2 * quadratic[np.ix_(support, support)]
        system[:-1, -1] = system[-1, :-1] = 1
        right = np.append(linear[support], 1.0)
        solution = np.linalg.lstsq(system, right, rcond=None)[0][:-1]
        if (solution < -1e-12).any() or abs(solution.sum() - 1) > 1e-9:
            continue
        weights = np.zeros(size)
        weights[support] = solution
        value = linear @ weights - weights @ quadratic @ weights
        if value > best_value:
            best, best_value = weights, value
    return best
