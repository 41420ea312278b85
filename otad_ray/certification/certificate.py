"""What a certificate says."""

from typing import NamedTuple

from torch import Tensor


class Certificate(NamedTuple):
    """Radii within which predictions are proven not to change.

    Attributes:
        radius: (B,) float64, at least 0, in l2.
        method: for each sample what proves its radius; "" where the radius is 0.
        linf_radius: (B,) float64 in linf, for a defense that has such a proof of its own; None for others.
    """

    radius: Tensor
    method: list[str]
    linf_radius: Tensor | None = None
