"""Working sets of the cutting planes, and what an oracle does for them."""

from typing import NamedTuple, Protocol

from torch import Tensor

# Pieces that join a working set in a round.
NEW_PIECES = 8


class WorkingSet(NamedTuple):
    """The solution over a few pieces, of n rows.

    Attributes:
        pieces: Positions of the pieces (n, k); a piece may be repeated.
        weights: `s` (n, k) on the simplex.
        feature: `z = sum_i s_i z_i` (n, D), float64.
        level: `sum_i s_i f_i(w)` (n,) at `w = x - z / L`.
        size: Size of the values (n,), which gaps are relative to.
    """

    pieces: Tensor
    weights: Tensor
    feature: Tensor
    level: Tensor
    size: Tensor

    @property
    def largest_support(self) -> int:
        """The most pieces with weight in a row; 0 without rows."""
        return int((self.weights > 0).sum(1).amax()) if len(self.weights) else 0

    def take(self, rows: Tensor) -> "WorkingSet":
        """Return some of the rows."""
        return WorkingSet(*(tensor[rows] for tensor in self))


class Oracle(Protocol):
    """Solves over a few pieces, and finds those of all N that are above the solution. It holds B queries."""

    def find_first(self) -> Tensor:
        """Return positions (B, k) of the pieces that, alone, give the queries the largest value of the program."""
        ...

    def solve(self, rows: Tensor, index: Tensor, start: Tensor | None) -> WorkingSet:
        """Solve the program of queries rows (n,) over the pieces at positions index (n, k).

        Args:
            rows: Which of the queries.
            index: The pieces.
            start: Weights (n, k) to start from, optimal over the pieces that have weight.
        """
        ...

    def find_largest(self, rows: Tensor, current: WorkingSet) -> tuple[Tensor, Tensor]:
        """Return positions (n, m) of the largest pieces at the solution, and its gap (n,).

        A gap at which a row is finished is over all pieces. A larger one may leave out pieces.
        """
        ...

    def measure_gap(self, rows: Tensor, current: WorkingSet) -> Tensor:
        """Return the gap (n,) of the solution over all pieces."""
        ...
