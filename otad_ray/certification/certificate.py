"""What a certificate says."""

from typing import NamedTuple

from torch import Tensor


class Certificate(NamedTuple):
    """radius (B,): float64, at least 0. method: for each sample what proves its radius; "" where the radius is 0."""

    radius: Tensor
    method: list[str]
