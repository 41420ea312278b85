"""What a certificate says."""

from typing import NamedTuple

from torch import Tensor


class Certificate(NamedTuple):
    """Radii within which predictions are proven not to change.

    Attributes:
        radius: (B,) float64, at least 0, in l2.
        method: for each sample what proves its radius; "" where the radius is 0.
    """

    radius: Tensor
    method: list[str]
