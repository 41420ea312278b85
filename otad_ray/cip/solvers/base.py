"""What solvers of program (16) are given and return."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from otad_ray.cip.status import Status


class SolverUnavailableError(RuntimeError):
    """The solver is known but cannot run here; the message says what is missing and how to give it."""


@dataclass(frozen=True)
class RowResult:
    """What a reference solver says of one program.

    Attributes:
        status: `SOLVED`, `FAILED` or `INTERRUPTED`.
        weights: The multipliers (K,) of the constraints, on the simplex; None without a solution.
        value: The optimal value; None without a solution.
    """

    status: Status
    weights: np.ndarray | None = None
    value: float | None = None


class RowSolver(Protocol):
    """A reference solver: an object with its settings that solves one row at a time.

    It minimizes `v` subject to `v >= levels_i + kappa |z - centers_i|^2` over `v` and `z`. It may have a `name`, which
    labels are marked with; by default that is the name of its class.
    """

    def __call__(self, centers: np.ndarray, levels: np.ndarray, kappa: float) -> RowResult:
        """Solve one program.

        Args:
            centers: The `w_i` (K, D), float64, centered and of size one.
            levels: The `p_i` (K,), float64, in the same unit as the value.
            kappa: The curvature.

        Returns:
            The solution, or the status that says why there is none. Numbers never make it raise.
        """
        ...


@dataclass(frozen=True)
class ProgramSolution:
    """Solutions of B programs.

    Attributes:
        weights: On the simplex (B, K).
        value: Optimal values (B,) without the level shift.
        status: Values of `Status` (B,), as the solver saw it.
        tolerance: The largest relative residual of a row that counts as solved.
    """

    weights: Tensor
    value: Tensor
    status: Tensor
    tolerance: float


def simplex_weights(multipliers: np.ndarray) -> np.ndarray | None:
    """Return multipliers as weights, clipped at zero and normalized; None if a solver returned none of use."""
    weights = np.clip(multipliers, 0.0, None)
    total = weights.sum()
    return weights / total if np.isfinite(total) and total > 0 else None
