"""What every backbone offers: points, their features, and a head."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn


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

    def embedding_bound(self) -> float | None:
        """A proven `sigma` with `|embed(x) - embed(x')| <= sigma |x - x'|` in l2, rounding apart; None without one."""
        return None

    def affine_head(self) -> tuple[Tensor, Tensor] | None:
        """`W` (C, D) and `b` (C,) where the head is `W z + b`; None where it is not affine."""
        return None

    def features(self, points: Tensor) -> Tensor:
        """Features (B, D) of points (B, D)."""
        return self.transport(points)[0]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of the network itself, the undefended net."""
        return self.head(self.features(self.embed(inputs)))

    def fingerprint(self) -> str:
        """SHA-256 of architecture, configuration, parameters and buffers, in hex: equal only for the same network."""
        # Options at None are left out: they came later, and networks from before keep their fingerprint.
        options = ", ".join(f"{name}={value!r}" for name, value in asdict(self.config).items() if value is not None)
        digest = hashlib.sha256(f"{type(self).__name__} {type(self.config).__name__}({options})".encode())
        for name, value in sorted(self.state_dict().items()):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()
