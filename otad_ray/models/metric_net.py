"""What every metric net offers: keys, whose distances say which training points are neighbors."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from otad_ray.models.fingerprint import network_fingerprint


class MetricNet(nn.Module, ABC):
    """A network from inputs to the keys that a memory is searched by (paper, Section IV.D).

    shape: of a sample. num_keys: E, the dimension of a key. config: what its builder was given, a dataclass.
    """

    shape: tuple[int, ...]
    num_keys: int
    config: Any

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Keys (B, E) of inputs (B, *shape) in the data set's bounds; ValueError for inputs of another shape."""

    def lipschitz_bound(self) -> float | None:
        """A proven `Lam` with `|f(x) - f(x')| <= Lam |x - x'|` in l2, rounding apart; None without one."""
        return None

    def rounding(self) -> float:
        """A proven `e`: the keys of an input of norm n are computed right to `e n`. For nets with a Lipschitz bound."""
        raise NotImplementedError(f"{type(self).__name__} has no bound on its rounding")

    def fingerprint(self) -> str:
        """SHA-256 of architecture, configuration, parameters and buffers, in hex: equal only for the same network."""
        return network_fingerprint(self, self.config)
