"""Convex integration (CIP): the feature of a query from its neighbors' features.

`brenier_potentials` finds the potential's values at the neighbors, inequality (15) of the OTAD paper;
`integrate` finds the gradient of the smallest interpolating potential at the query, program (16).
`integrate_globally` does so over all training points at once, with one potential that is smooth everywhere.
Pure PyTorch: batched, on any device, differentiable. cvxpy and MOSEK are imported only by the
reference solvers that need them.
"""

from otad_ray.cip.global_program import (
    BrenierPotential,
    CuttingPlanes,
    GlobalSolution,
    Pieces,
    fit_potentials,
    integrate_globally,
    make_pieces,
    measure_edges,
    solve_least_squares,
)
from otad_ray.cip.gram import GramBlocks, gram_blocks
from otad_ray.cip.integrate import GramSolution, Solution, combine_centers, integrate, integrate_gram
from otad_ray.cip.isometry import Isometry
from otad_ray.cip.potentials import Potentials, brenier_potentials
from otad_ray.cip.program import CROSS_TERMS, CrossTerm, center_displacement
from otad_ray.cip.regularity import Regularity
from otad_ray.cip.solvers import (
    MOSEK,
    DualSimplex,
    RowResult,
    RowSolver,
    SolverUnavailableError,
    check_solver,
    check_solver_name,
    known_solvers,
    solver_fingerprint,
)
from otad_ray.cip.status import RETRYABLE, SolverInterruptedError, Status, refuse_interruptions

__all__ = [
    "CROSS_TERMS",
    "MOSEK",
    "RETRYABLE",
    "BrenierPotential",
    "CrossTerm",
    "CuttingPlanes",
    "DualSimplex",
    "GlobalSolution",
    "GramBlocks",
    "GramSolution",
    "Isometry",
    "Pieces",
    "Potentials",
    "Regularity",
    "RowResult",
    "RowSolver",
    "Solution",
    "SolverInterruptedError",
    "SolverUnavailableError",
    "Status",
    "brenier_potentials",
    "center_displacement",
    "check_solver",
    "check_solver_name",
    "combine_centers",
    "fit_potentials",
    "gram_blocks",
    "integrate",
    "integrate_globally",
    "integrate_gram",
    "known_solvers",
    "make_pieces",
    "measure_edges",
    "refuse_interruptions",
    "solve_least_squares",
    "solver_fingerprint",
]
