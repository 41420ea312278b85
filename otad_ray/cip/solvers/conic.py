"""The primal (16) by any conic solver that cvxpy knows and that is installed."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from otad_ray.cip.solvers.base import RowResult, simplex_weights
from otad_ray.cip.status import Status


@cache
def installed_conic_solvers() -> tuple[str, ...]:
    """Return the lower-case names of the installed solvers with second-order cones, less MOSEK (its own module)."""
    import cvxpy
    from cvxpy.constraints import SOC
    from cvxpy.reductions.solvers.defines import SOLVER_MAP_CONIC

    return tuple(
        sorted(
            name.lower()
            for name in cvxpy.installed_solvers()
            if name != "MOSEK" and name in SOLVER_MAP_CONIC and SOC in SOLVER_MAP_CONIC[name].SUPPORTED_CONSTRAINTS
        )
    )


@dataclass(frozen=True)
class ConicPrimal:
    """Program (16) as cvxpy writes it, at the solver's default tolerances.

    The solver is always named: left to itself cvxpy picks MOSEK wherever it is installed, license or not.
    """

    solver: str

    @property
    def name(self) -> str:
        return self.solver

    def __call__(self, centers: np.ndarray, levels: np.ndarray, kappa: float) -> RowResult:
        import cvxpy

        feature = cvxpy.Variable(centers.shape[1])
        value = cvxpy.Variable()
        constraints = [
            value >= level + kappa * cvxpy.sum_squares(feature - center)
            for level, center in zip(levels, centers, strict=True)
        ]
        problem = cvxpy.Problem(cvxpy.Minimize(value), constraints)
        try:
            problem.solve(solver=self.solver.upper())
        except cvxpy.SolverError:
            return RowResult(Status.FAILED)
        if problem.status not in (cvxpy.OPTIMAL, cvxpy.OPTIMAL_INACCURATE):
            return RowResult(Status.FAILED)
        weights = simplex_weights(np.concatenate([np.ravel(constraint.dual_value) for constraint in constraints]))
        if weights is None:
            return RowResult(Status.FAILED)
        return RowResult(Status.SOLVED, weights, float(problem.value))
