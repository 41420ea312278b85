"""Metrics of a defense's features."""

from torch import Tensor


def relative_error(reference: Tensor, features: Tensor) -> Tensor:
    """`RE = |R(x) - f(x)|^2 / |R(x)|^2` (B,), the paper's Section V.D, of features (B, D)."""
    return (reference - features).square().sum(1) / reference.square().sum(1)
