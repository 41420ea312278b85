"""The two steps of Algorithm 2 on a batch: potentials (15), then the feature (16)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.cip.gram import GramBlocks, check_neighborhoods, gram_blocks
from otad_ray.cip.isometry import Isometry
from otad_ray.cip.potentials import Potentials, potentials_from_gram
from otad_ray.cip.program import CipProgram, CrossTerm, cip_program
from otad_ray.cip.regularity import Regularity
from otad_ray.cip.solvers import (
    DUAL,
    DualSimplex,
    ProgramSolution,
    Solver,
    find_solver,
    name_of_solver,
    solve_rows,
)
from otad_ray.cip.status import Status

# Bytes of float64 features held at a time: on a processor few enough for its second-level cache.
_BLOCK_BYTES, _BLOCK_BYTES_ELSEWHERE = 2 << 20, 256 << 20


@dataclass(frozen=True, kw_only=True)
class GramSolution:
    """Solution of (15) and (16) for B rows with K neighbors; all but status and relaxations are float64.

    value (B,): optimal `v` of (16); NaN where the row was not solved.
    weights (B, K): dual solution `s` on the simplex; the feature is `sum_i s_i w_i`, `w_i` by `center_displacement`.
    potentials (B, K): the `u` used; NaN where there are none.
    smoothness_used, strong_convexity_used, relaxations (B,): regularity at which (15) was feasible; (16) is always
        solved at the one asked for.
    status (B,): values of `Status`, int64.
    residual (B,): duality gap of the weights, and the error of the value, over the size of the objective's terms.
    """

    value: Tensor
    weights: Tensor
    potentials: Tensor
    smoothness_used: Tensor
    strong_convexity_used: Tensor
    relaxations: Tensor
    status: Tensor
    residual: Tensor


@dataclass(frozen=True, kw_only=True)
class Solution(GramSolution):
    """A `GramSolution` with the feature `z` (B, D), in the dtype of the input, and the solver's name."""

    feature: Tensor
    solver: str


def integrate(
    query: Tensor,
    points: Tensor,
    features: Tensor,
    regularity: Regularity,
    *,
    solver: str | Solver = DUAL,
    cross_term: CrossTerm = "theory",
    potentials: Tensor | None = None,
    isometry: Isometry | None = None,
) -> Solution:
    """Integrate each query's feature from its neighbors: potentials by (15), feature by (16) (Algorithm 2).

    With the dual solver the feature and the value are differentiable in query, points, features and potentials for a
    fixed neighbor set. A row that is not solved still returns a convex combination of its `w_i`.

    Args:
        query: Queries (B, D), float32 or float64, as all tensors here, on one device.
        points: Their neighbors (B, K, D).
        features: The neighbors' features (B, K, D).
        regularity: The bounds (l, L) of the potential, and how they are relaxed.
        solver: "dual" (default; exact and differentiable), "mosek", a conic solver of cvxpy by name, your own by
            `path/to/file.py:MySolver`, or the solver itself: an object such as `DualSimplex()` or any `RowSolver`.
        cross_term: "theory", the paper's (16), or "released", the formula of the authors' code.
        potentials: Used in place of (15)'s (B, K); no relaxation takes place then.
        isometry: Query (B, d) and points (B, K, d) are coordinates in a smaller space, which it maps into the
            features'.

    Raises:
        ValueError: For shapes, dtypes or names that do not fit, and for another solver than the dual if a gradient is
            asked for: without it an attack would be misled in silence.
    """
    check_neighborhoods(points, features, same_space=isometry is None)
    _check_query(query, points, potentials)
    chosen = find_solver(solver) if isinstance(solver, str) else solver
    name = name_of_solver(chosen)
    solve: Callable[[CipProgram], ProgramSolution]
    if isinstance(chosen, DualSimplex):
        solve = chosen.solve
    else:
        _refuse_gradient(name, query, points, features, potentials)

        def solve(program: CipProgram) -> ProgramSolution:
            return solve_rows(chosen, program, _centers(query, points, features, program.displacement, isometry))

    nearby = None if isometry is None else _projected(features, isometry)
    blocks = gram_blocks(query, points, features, features_in_point_space=nearby)
    solution, displacement = _integrate_blocks(blocks, regularity, cross_term, potentials, solve)
    feature = combine_centers(solution.weights, query, points, features, displacement, isometry)
    return Solution(**vars(solution), feature=feature, solver=name)


def integrate_gram(
    blocks: GramBlocks,
    regularity: Regularity,
    *,
    cross_term: CrossTerm = "theory",
    potentials: Tensor | None = None,
) -> GramSolution:
    """Integrate from inner products alone, by the dual solver; the caller forms `sum_i s_i w_i`."""
    return _integrate_blocks(blocks, regularity, cross_term, potentials, DualSimplex().solve)[0]


def _integrate_blocks(
    blocks: GramBlocks,
    regularity: Regularity,
    cross_term: CrossTerm,
    potentials: Tensor | None,
    solve: Callable[[CipProgram], ProgramSolution],
) -> tuple[GramSolution, float]:
    blocks, finite = _without_non_finite_rows(blocks)
    found = potentials_from_gram(blocks, regularity) if potentials is None else _given(potentials, regularity)
    solvable = (found.feasible & finite).unsqueeze(1)
    program = cip_program(blocks, torch.where(solvable, found.potentials, 0.0), regularity, cross_term)
    result = solve(program)

    residual = _residual(program, result)
    status = torch.where(found.relaxations > 0, int(Status.RELAXED), int(Status.SOLVED))
    status = torch.where(residual <= result.tolerance, status, int(Status.FAILED))
    status = torch.where(result.status == Status.SOLVED, status, result.status)
    status = torch.where(found.feasible, status, int(Status.INFEASIBLE))
    status = torch.where(finite, status, int(Status.FAILED))

    usable = solvable & (result.status == Status.SOLVED).unsqueeze(1)
    uniform = torch.full_like(result.weights, 1.0 / blocks.num_neighbors)
    value = result.value + program.level_shift.squeeze(1)
    solved = (status == Status.SOLVED) | (status == Status.RELAXED)
    solution = GramSolution(
        value=torch.where(solved, value, torch.nan),
        weights=torch.where(usable, result.weights, uniform),
        potentials=torch.where(solvable, found.potentials, torch.nan),
        smoothness_used=found.smoothness_used,
        strong_convexity_used=found.strong_convexity_used,
        relaxations=found.relaxations,
        status=status,
        residual=torch.where(usable.squeeze(1), residual, torch.nan),
    )
    return solution, program.displacement


def _without_non_finite_rows(blocks: GramBlocks) -> tuple[GramBlocks, Tensor]:
    """Rows with NaN, infinite or overflowing products zeroed, so that they cannot disturb batched kernels."""
    parts = (blocks.points, blocks.features, blocks.cross)
    finite = torch.stack([torch.isfinite(part).all(2).all(1) for part in parts]).all(0)
    if bool(finite.all()):
        return blocks, finite
    points, features, cross = (torch.where(finite.view(-1, 1, 1), part, 0.0) for part in parts)
    return GramBlocks(points, features, cross, blocks.input_epsilon), finite


def _given(potentials: Tensor, regularity: Regularity) -> Potentials:
    potentials = potentials.double()
    num_rows = potentials.shape[0]
    return Potentials(
        potentials,
        potentials.new_full((num_rows,), regularity.smoothness),
        potentials.new_full((num_rows,), regularity.strong_convexity),
        torch.zeros(num_rows, dtype=torch.int64, device=potentials.device),
        torch.isfinite(potentials).all(1),
    )


def _residual(program: CipProgram, result: ProgramSolution) -> Tensor:
    with torch.no_grad():
        primal, dual = program.primal_value(result.weights), program.dual_value(result.weights)
        error = torch.maximum(primal - dual, (result.value - dual).abs())
        return error.clamp_min(0.0) / program.scale()


def _centers(query: Tensor, points: Tensor, features: Tensor, displacement: float, isometry: Isometry | None) -> Tensor:
    """`w_i = z_i + a (x - x_i)`, float64 (B, K, D)."""
    with torch.no_grad():
        steps = query.double().unsqueeze(1) - points.double()
        return features.double() + displacement * (steps if isometry is None else isometry.lift(steps))


def combine_centers(
    weights: Tensor,
    query: Tensor,
    points: Tensor,
    features: Tensor,
    displacement: float,
    isometry: Isometry | None = None,
) -> Tensor:
    """`sum_i s_i w_i` (B, D) of weights s (B, K) on the simplex, `w_i = z_i + a (x - x_i)` with a = displacement.

    query, points, features and isometry as in `integrate`. Summed in float64: large common parts would cost the
    differences their digits. A few samples at a time.
    """
    block = _block_rows(features)
    tensors = (weights.unsqueeze(1), query.unsqueeze(1), points, features)
    parts = []
    for share, rows, near, targets in zip(*(tensor.split(block) for tensor in tensors), strict=True):
        feature = share @ targets.double()
        if displacement != 0:
            step = rows.double() - share @ near.double()
            feature = feature + displacement * (step if isometry is None else isometry.lift(step))
        parts.append(feature.squeeze(1).to(features.dtype))
    return torch.cat(parts)


def _projected(features: Tensor, isometry: Isometry) -> Tensor:
    """Features (B, K, D) in the space of the points (B, K, d), float64: as exact as all inner products here."""
    return torch.cat([isometry.project(block.double()) for block in features.split(_block_rows(features))])


def _block_rows(features: Tensor) -> int:
    """Samples of features (B, K, D) that are converted at a time."""
    size = _BLOCK_BYTES if features.device.type == "cpu" else _BLOCK_BYTES_ELSEWHERE
    return max(1, size // (8 * features.shape[1] * features.shape[2]))


def _refuse_gradient(solver: str, *tensors: Tensor | None) -> None:
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise ValueError(f"solver {solver!r} has no gradient; use solver 'dual', or torch.no_grad()")


def _check_query(query: Tensor, points: Tensor, potentials: Tensor | None) -> None:
    if query.dim() != 2 or query.shape != points.shape[::2]:
        raise ValueError(
            f"query must be (B, D) = {tuple(points.shape[::2])}, as points (B, K, D), got {tuple(query.shape)}"
        )
    if query.dtype != points.dtype:
        raise ValueError(
            f"query, points and features must all be float32 or all float64, got {query.dtype} and {points.dtype}"
        )
    if potentials is not None and potentials.shape != points.shape[:2]:
        raise ValueError(f"potentials must be (B, K) = {tuple(points.shape[:2])}, got {tuple(potentials.shape)}")
