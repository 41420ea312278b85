"""The regularity asked of the Brenier potential and how it may be relaxed."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Regularity:
    """Smoothness `L` and strong convexity `l` of the potential, with the relaxation of Algorithm 2.

    Raises ValueError, with the field and the value found, where a rule is broken.

    Attributes:
        smoothness: `L > 0`; the map is max(L, |l|)-Lipschitz for a fixed neighbor set.
        strong_convexity: `l < L`, may be negative.
        relax_smoothness: `delta_1 >= 0`, added to `L` at each relaxation.
        relax_strong_convexity: `delta_2 >= 0`, taken from `l` at each relaxation.
        max_relaxations: number of relaxations after which a row is infeasible.
    """

    smoothness: float = 2.0
    strong_convexity: float = 0.0
    relax_smoothness: float = 0.2
    relax_strong_convexity: float = 0.2
    max_relaxations: int = 100

    def __post_init__(self) -> None:
        for name in ("smoothness", "strong_convexity", "relax_smoothness", "relax_strong_convexity"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if self.smoothness <= 0:
            raise ValueError(f"need smoothness > 0, got {self.smoothness}")
        if self.strong_convexity >= self.smoothness:
            raise ValueError(
                "need strong_convexity < smoothness, "
                f"got strong_convexity={self.strong_convexity} and smoothness={self.smoothness}"
            )
        for name in ("relax_smoothness", "relax_strong_convexity", "max_relaxations"):
            if getattr(self, name) < 0:
                raise ValueError(f"need {name} >= 0, got {getattr(self, name)}")
        if not isinstance(self.max_relaxations, int):
            raise ValueError(f"max_relaxations must be a whole number, got {self.max_relaxations}")

    @property
    def kappa(self) -> float:
        """`1 / (2 (L - l))`, the curvature of every constraint of program (16)."""
        return 1.0 / (2.0 * (self.smoothness - self.strong_convexity))
