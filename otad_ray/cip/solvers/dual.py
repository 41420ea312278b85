"""The exact solver of program (16): its dual on the simplex, on whole batches of inner products, differentiable."""

from dataclasses import dataclass

import torch

from otad_ray.cip.program import CipProgram
from otad_ray.cip.simplex_qp import solve_simplex_qp
from otad_ray.cip.solvers.base import ProgramSolution
from otad_ray.cip.status import Status


@dataclass(frozen=True, kw_only=True)
class DualSimplex:
    """Maximizes the dual of (16) by an active-set method; the default solver.

    Attributes:
        tolerance: The largest relative residual of a row that counts as solved; the method reaches a few roundings.
    """

    tolerance: float = 1e-9

    @property
    def name(self) -> str:
        return "dual"

    def solve(self, program: CipProgram) -> ProgramSolution:
        """Solve B programs at once; weights and value are differentiable in the program."""
        weights = solve_simplex_qp(program.kappa * program.centers_gram, program.linear)
        # The envelope theorem: at the optimum the value does not change with the weights.
        value = program.dual_value(weights.detach())
        status = torch.full_like(value, int(Status.SOLVED), dtype=torch.int64)
        return ProgramSolution(weights, value, status, self.tolerance)
