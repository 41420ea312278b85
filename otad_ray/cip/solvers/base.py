"""What a reference solver of program (16) is given and returns."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from otad_ray.cip.status import Status


class SolverUnavailableError(RuntimeError):
    """The solver is known but cannot run here; the message says what is missing and how to give it."""


@dataclass(frozen=True)
class RowResult:
    """Solution of one program: weights (K,) on the simplex and the optimal value.

    status is `SOLVED`, `FAILED` or `INTERRUPTED`; without a solution weights and value are None.
    """

    status: Status
    weights: np.ndarray | None = None
    value: float | None = None


class RowSolver(Protocol):
    """Minimizes `v` subject to `v >= levels_i + kappa |z - centers_i|^2` over `v` and `z`, one row at a time."""

    def __call__(self, centers: np.ndarray, levels: np.ndarray, kappa: float) -> RowResult:
        """centers (K, D) and levels (K,), float64."""
        ...


def simplex_weights(multipliers: np.ndarray) -> np.ndarray | None:
    """Multipliers as weights: clipped at zero, normalized; None where a solver returned none of use."""
    weights = np.clip(multipliers, 0.0, None)
    total = weights.sum()
    return weights / total if np.isfinite(total) and total > 0 else None
