"""How far keys and points move with an input, with what rounding adds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.models import TokenSpace

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What comes of an input of norm n moves by at most `bound r + rounding (2 n + r)` where the input moves by r.

    The exact map is `bound`-Lipschitz, and what is computed errs by at most `rounding` times the input's norm: n at the
    one end, at most n + r at the other.
    """

    bound: float
    rounding: float

    def distance(self, radius: Tensor, norm: Tensor | float) -> Tensor:
        """How far it moves where an input of this norm moves by `radius`."""
        return radius * (self.bound + self.rounding) + 2 * self.rounding * norm

    def radius(self, distance: Tensor, norm: Tensor | float) -> Tensor:
        """How far an input of this norm may move for it to move by at most `distance`; 0 where rounding alone may."""
        return (distance - 2 * self.rounding * norm).clamp_min(0) / max(self.bound + self.rounding, _TINY)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How keys and points move; without a metric net they are the same."""

    keys: Motion
    points: Motion

    def in_key_units(self, distance: Tensor, norm: Tensor | float) -> Tensor:
        """How far keys move where points move by at most `distance`; 0 where rounding alone may move points so."""
        radius = self.points.radius(distance, norm)
        return torch.where(radius > 0, self.keys.distance(radius, norm), 0)


def isometry_defect(space: TokenSpace | None) -> float:
    """`|Q'Q - I|` of the map Q that lifts coordinates: its orthonormal columns were rounded to float32."""
    if space is None:
        return 0.0
    # Q is this basis for each token.
    basis = space.tensors["basis"].double()
    return float(torch.linalg.matrix_norm(basis.T @ basis - torch.eye(basis.shape[1]).to(basis), 2))
