"""What every backbone offers: points, their features, and a head."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from otad_ray.models.fingerprint import network_fingerprint
from otad_ray.models.point_space import TokenSpace


@dataclass(frozen=True)
class LinearMargins:
    """Logits of a head, up to a positive factor and a common term: their differences have the signs of `W z + b`'s.

    weight (C, D) and bias (C,). For features of norm at most n, what float32 takes of entry b of `W z + b`, before the
    rounding of z itself, is at most `terms * 2^-23 * (sizes_b n + |bias_b|)`; sizes (C,).
    """

    weight: Tensor
    bias: Tensor
    sizes: Tensor
    terms: int


class Backbone(nn.Module, ABC):
    """A network `head(transport(embed(x)))` whose transport keeps the dimension.

    dimension: D of points and features. num_outputs: C, classes or 1. config: what its builder was given, a dataclass.
    """

    dimension: int
    num_outputs: int
    config: Any

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """Inputs (B, *shape) in the data set's bounds to points (B, D)."""

    @abstractmethod
    def transport(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, D) to features (B, D), and the path's energy `sum_k |x^k - x^(k-1)|^2` (B,), equation (13).

        Both in the dtype of the points, under autocast too: only what happens inside a block is of lower precision.
        """

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Features (B, D) to logits (B, C)."""

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Inputs (B, *shape) to coordinates (B, d) of their points in `point_space`; without one, the points."""
        return self.embed(inputs)

    @property
    def point_space(self) -> TokenSpace | None:
        """The smaller space isometric to that of the points; None where points are kept as they are."""
        return None

    def points_of(self, coordinates: Tensor) -> Tensor:
        """Points (B, D) of coordinates (B, d)."""
        space = self.point_space
        return coordinates if space is None else space.points(coordinates)

    def embedding_bound(self) -> float | None:
        """A proven `sigma` with `|embed(x) - embed(x')| <= sigma |x - x'|` in l2, rounding apart; None without one."""
        return None

    def embedding_rounding(self) -> float:
        """A proven `e`: coordinates of an input of norm n are computed right to `e n`; 0 where inputs are points."""
        return 0.0

    def affine_head(self) -> tuple[Tensor, Tensor] | None:
        """`W` (C, D) and `b` (C,) where the head is `W z + b`; None where it is not affine."""
        return None

    def linear_margins(self) -> LinearMargins | None:
        """Affine functions whose differences have the signs of the logits'; None where there are none.

        The class regions are then convex, and a certificate may rest on them.
        """
        affine = self.affine_head()
        if affine is None:
            return None
        weight, bias = affine
        return LinearMargins(weight, bias, weight.detach().double().norm(dim=1), weight.shape[1])

    def features(self, points: Tensor) -> Tensor:
        """Features (B, D) of points (B, D)."""
        return self.transport(points)[0]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of the network itself, the undefended net."""
        return self.head(self.features(self.embed(inputs)))

    def fingerprint(self) -> str:
        """SHA-256 of architecture, configuration, parameters and buffers, in hex: equal only for the same network."""
        return network_fingerprint(self, self.config)
