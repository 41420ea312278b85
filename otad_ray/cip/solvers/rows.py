"""Batches of program (16) by a solver that takes one row at a time."""

from math import isfinite

import numpy as np
import torch
from torch import Tensor

from otad_ray.cip.program import CipProgram
from otad_ray.cip.solvers.base import ProgramSolution, RowResult, RowSolver
from otad_ray.cip.status import Status, check_interruptions
from otad_ray.errors import InputError

# Largest relative residual of a row that counts as solved: conic solvers stop when the value is right to about 1e-8,
# which leaves the weights, and so the gap, right to about 1e-4.
_TOLERANCE = 1e-3
# How far weights may be from the simplex: the residual means nothing for others.
_SIMPLEX_TOLERANCE = 1e-6


def solve_rows(solver: RowSolver, program: CipProgram, centers: Tensor) -> ProgramSolution:
    """Solve B programs, one after the other.

    Args:
        solver: Gets each row with offsets and levels of size one, because conic solvers stop at absolute tolerances.
        program: The programs, for their levels and curvature.
        centers: The `w_i` (B, K, D), float64.

    Raises:
        InputError: If the solver returns something else than a `RowResult`.
        SolverInterruptedError: Within `refuse_interruptions`, if a row was interrupted.
    """
    weights = torch.full_like(program.levels, 1.0 / program.levels.shape[1])
    value = torch.full_like(program.levels[:, 0], torch.nan)
    status = torch.empty_like(value, dtype=torch.int64)
    centered = centers - centers.mean(1, keepdim=True)
    scale = program.scale()
    radius = centered.norm(dim=2).amax(1)
    radius = torch.where(radius > 0, radius, torch.ones_like(radius))
    offsets = (centered / radius.view(-1, 1, 1)).cpu().numpy()
    levels = (program.levels.detach() / scale.unsqueeze(1)).cpu().numpy()
    curvature = (program.kappa * radius**2 / scale).tolist()
    for row in range(len(levels)):
        result = _checked(solver, solver(offsets[row], levels[row], curvature[row]), len(levels[row]))
        status[row] = int(result.status)
        if result.weights is not None and result.value is not None:
            weights[row] = torch.as_tensor(result.weights)
            value[row] = result.value * scale[row]
    check_interruptions(int((status == Status.INTERRUPTED).sum()))
    return ProgramSolution(weights, value, status, _TOLERANCE)


def _checked(solver: RowSolver, result: RowResult, num_neighbors: int) -> RowResult:
    """Return the result, as a failure if it says that it is solved and its numbers are no solution."""
    if not isinstance(result, RowResult):
        raise InputError(
            f"solver {type(solver).__name__} returned a {type(result).__name__}; need an otad_ray.cip.solvers.RowResult"
        )
    if result.status != Status.SOLVED:
        return RowResult(result.status)
    weights = None if result.weights is None else np.asarray(result.weights, dtype=np.float64)
    is_solution = (
        weights is not None
        and result.value is not None
        and isfinite(result.value)
        and weights.shape == (num_neighbors,)
        and weights.min() >= -_SIMPLEX_TOLERANCE
        and abs(weights.sum() - 1) <= _SIMPLEX_TOLERANCE
    )
    return result if is_solution else RowResult(Status.FAILED)
