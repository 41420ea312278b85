"""What became of one row of a convex integration."""

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
