"""What became of one row of a convex integration."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum


class Status(IntEnum):
    """Outcome of one row; a solution carries one for every row, never silent.

    `SOLVED`: potentials at the regularity asked for, program (16) solved.
    `RELAXED`: the same after at least one relaxation of the regularity.
    `INFEASIBLE`: no potentials within the relaxations; the feature is the uniform mean of the `w_i`.
    `FAILED`: the input was not finite, or the solver did not reach its tolerance.
    `INTERRUPTED`: a license or a time limit stopped the solver; the row can be tried again.
    """

    SOLVED = 0
    RELAXED = 1
    INFEASIBLE = 2
    FAILED = 3
    INTERRUPTED = 4

    @property
    def label(self) -> str:
        """The name written to label files: `solved`, `relaxed`, ..."""
        return self.name.lower()


RETRYABLE = frozenset({Status.INTERRUPTED})


class SolverInterruptedError(RuntimeError):
    """A solver was interrupted where an answer of every row is needed; try again later."""


_refused: ContextVar[bool] = ContextVar("interruptions are refused", default=False)


@contextmanager
def refuse_interruptions() -> Iterator[None]:
    """Within the block a row that becomes `INTERRUPTED` raises SolverInterruptedError.

    For what asks a defense many times and keeps only its own conclusion, such as an attack or a certificate: rows
    without an answer would go into it unseen.
    """
    token = _refused.set(True)
    try:
        yield
    finally:
        _refused.reset(token)


def check_interruptions(num_interrupted: int) -> None:
    """SolverInterruptedError for any interrupted row, within `refuse_interruptions`."""
    if num_interrupted and _refused.get():
        raise SolverInterruptedError(
            f"the solver was interrupted on {num_interrupted} rows (a license that is missing or lost, or a time limit)"
        )
