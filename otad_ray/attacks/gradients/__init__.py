"""Directions that iterative attacks follow: gradients of the defense or of a stand-in, and steps between pieces."""

from otad_ray.attacks.gradients.pieces import PieceGradient, find_piece_direction
from otad_ray.attacks.gradients.standard import (
    BackwardPassGradient,
    Evaluation,
    ExactGradient,
    Gradient,
    SmoothedGradient,
    is_zero,
    undefended_net,
)

__all__ = [
    "BackwardPassGradient",
    "Evaluation",
    "ExactGradient",
    "Gradient",
    "PieceGradient",
    "SmoothedGradient",
    "find_piece_direction",
    "is_zero",
    "undefended_net",
]
