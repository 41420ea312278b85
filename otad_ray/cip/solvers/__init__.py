"""Solvers of program (16): objects with their settings, in one file each, and by name.

The default, `DualSimplex`, works on whole batches of inner products. The others are the reference: they solve the
primal (16) in all D variables, a row at a time, and report the multipliers of its constraints, which are the weights.
To add one, write a `RowSolver` and add an entry to `SOLVERS`; a user's own is named by `path/to/file.py:MySolver`.
"""

from collections.abc import Callable, Mapping

from otad_ray.cip.solvers.base import ProgramSolution, RowResult, RowSolver, SolverUnavailableError
from otad_ray.cip.solvers.dual import DualSimplex
from otad_ray.cip.solvers.rows import solve_rows
from otad_ray.errors import InputError, name_type
from otad_ray.user_module import call_object, fingerprint, is_location, load_object, split_location

DUAL = "dual"
MOSEK = "mosek"
# What integrates: the exact solver, or a reference.
Solver = DualSimplex | RowSolver
_EXPECTED = "a class of solvers (otad_ray.cip.solvers.RowSolver), or one of them"

__all__ = [
    "DUAL",
    "MOSEK",
    "SOLVERS",
    "DualSimplex",
    "ProgramSolution",
    "RowResult",
    "RowSolver",
    "Solver",
    "SolverUnavailableError",
    "check_solver",
    "check_solver_name",
    "find_solver",
    "known_solvers",
    "name_of_solver",
    "solve_rows",
    "solver_fingerprint",
]


def _mosek() -> RowSolver:
    from otad_ray.cip.solvers.mosek_primal import MosekPrimal

    return MosekPrimal()


# What makes a solver that is not one of cvxpy's, for one batch. A library that takes long to import is imported then.
SOLVERS: Mapping[str, Callable[[], Solver]] = {
    DUAL: DualSimplex,
    MOSEK: _mosek,
}


def known_solvers() -> tuple[str, ...]:
    """Return the names that `integrate` and the jobs accept on this machine, beside users' own files."""
    from otad_ray.cip.solvers.conic import installed_conic_solvers

    return (*SOLVERS, *installed_conic_solvers())


def check_solver_name(name: str) -> None:
    """Raise ValueError, listing the known names, for a solver that is neither known nor in a user's file.

    A user's file is not executed, only looked for.
    """
    if is_location(name):
        split_location(name, expected=_EXPECTED)
    # cvxpy takes a second to import: only names that may be its own ask it.
    elif name not in SOLVERS and name not in known_solvers():
        raise ValueError(
            f"unknown solver {name!r}; known: {', '.join(known_solvers())}, or path/to/file.py:MySolver for your own"
        )


def check_solver(name: str) -> None:
    """Refuse, before any work, a solver that is unknown (ValueError) or cannot run (SolverUnavailableError)."""
    check_solver_name(name)
    if name == MOSEK:
        from otad_ray.cip.solvers.mosek_primal import check_license

        check_license()
    elif is_location(name):
        find_solver(name)


def find_solver(name: str) -> Solver:
    """Return a solver for one batch.

    Args:
        name: Of a known solver, or `path/to/file.py:MySolver`, where a class stands for its instance with defaults.

    Raises:
        ValueError: For an unknown name; as InputError for a file that holds no solver.
    """
    if name in SOLVERS:
        return SOLVERS[name]()
    if is_location(name):
        return _load_solver(name)
    check_solver_name(name)
    from otad_ray.cip.solvers.conic import ConicPrimal

    return ConicPrimal(name)


def name_of_solver(solver: Solver) -> str:
    """Return the name that solutions are marked with: the solver's own `name`, else that of its class."""
    return str(getattr(solver, "name", type(solver).__name__))


def solver_fingerprint(name: str) -> str | None:
    """Return what changes with the content of a user's solver, to be part of identities; None for built-in ones."""
    if not is_location(name):
        return None
    _load_solver(name)
    return fingerprint(name)


def _load_solver(location: str) -> RowSolver:
    found = load_object(location, expected=_EXPECTED)
    solver = call_object(location, expected=_EXPECTED) if isinstance(found, type) else found
    if not callable(solver):
        raise InputError(f"{location} is {name_type(solver)}, which cannot be called; need {_EXPECTED}")
    return solver
