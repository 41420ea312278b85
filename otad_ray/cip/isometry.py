"""Points in a smaller space isometric to their own."""

from typing import Protocol

from torch import Tensor


class Isometry(Protocol):
    """A linear map of coordinates (..., d) into the space of the features (..., D) that keeps inner products."""

    def lift(self, displacements: Tensor) -> Tensor:
        """Vectors (..., d) as vectors (..., D)."""
        ...

    def project(self, vectors: Tensor) -> Tensor:
        """Its adjoint: `<lift(c), v> = <c, project(v)>`."""
        ...
