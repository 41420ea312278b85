"""Solvers of program (16), by name: our exact dual (`"dual"`), MOSEK, or any conic solver of cvxpy.

The dual works on whole batches of inner products. The others are the reference: they solve the primal (16)
in all D variables, a row at a time, and report the multipliers of its constraints, which are the weights.
To add one, write a `RowSolver` and add an entry to `ROW_SOLVERS`.
"""

from collections.abc import Callable, Mapping

from otad_ray.cip.solvers.base import RowResult, RowSolver, SolverUnavailableError

DUAL = "dual"
MOSEK = "mosek"

__all__ = [
    "DUAL",
    "MOSEK",
    "ROW_SOLVERS",
    "RowResult",
    "RowSolver",
    "SolverUnavailableError",
    "check_solver",
    "check_solver_name",
    "known_solvers",
    "row_solver",
]


def _mosek() -> RowSolver:
    from otad_ray.cip.solvers.mosek_primal import MosekPrimal

    return MosekPrimal()


# What builds a solver that is not one of cvxpy's. A library that takes long to import is imported when it is built.
ROW_SOLVERS: Mapping[str, Callable[[], RowSolver]] = {
    MOSEK: _mosek,
}


def known_solvers() -> tuple[str, ...]:
    """The names that `integrate` and the jobs accept on this machine."""
    from otad_ray.cip.solvers.conic import installed_conic_solvers

    return (DUAL, *ROW_SOLVERS, *installed_conic_solvers())


def check_solver_name(name: str) -> None:
    """ValueError, listing the known names, for an unknown solver."""
    # cvxpy takes a second to import: only names that may be its own ask it.
    if name not in (DUAL, *ROW_SOLVERS) and name not in known_solvers():
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(known_solvers())}")


def check_solver(name: str) -> None:
    """Refuse, before any work, a solver that is unknown (ValueError) or cannot run (SolverUnavailableError)."""
    check_solver_name(name)
    if name == MOSEK:
        from otad_ray.cip.solvers.mosek_primal import check_license

        check_license()


def row_solver(name: str) -> RowSolver:
    """The reference solver called `name`; raises ValueError for an unknown one."""
    if name in ROW_SOLVERS:
        return ROW_SOLVERS[name]()
    check_solver_name(name)
    from otad_ray.cip.solvers.conic import ConicPrimal

    return ConicPrimal(name)
