"""What an attack may do to an input: a norm, a radius, and the data set's bounds."""

from dataclasses import dataclass
from math import inf, isnan
from typing import Literal, get_args

import torch
from torch import Tensor

from otad_ray.attacks.streams import Streams
from otad_ray.errors import InputError

Norm = Literal["l2", "linf"]
NORMS: tuple[str, ...] = get_args(Norm)
# What is added to an input is rounded: perturbations aim inside the radius by this part of it. Where that is not
# enough, as in many dimensions with a small eps, by ten times as much, and so on.
_SLACK = 1e-6
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All x' with `|x' - x| <= eps` within bounds.

    eps: radius in the unit of the data set's inputs; infinite for attacks that choose the norm themselves.
    bounds: least and largest value of an input, or None.
    """

    eps: float
    norm: Norm = "l2"
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.eps < 0 or isnan(self.eps):
            raise InputError(f"need eps >= 0, got {self.eps}")
        if self.norm not in NORMS:
            raise InputError(f"unknown norm {self.norm!r}; known: {', '.join(NORMS)}")

    @property
    def inner_eps(self) -> float:
        """What perturbations aim at, so that they are no longer than eps once they are added to an input."""
        return (1 - _SLACK) * self.eps

    def check_inputs(self, inputs: Tensor) -> None:
        """InputError for inputs (B, *shape) that are not finite or not within the bounds."""
        if not bool(torch.isfinite(inputs).all()):
            raise InputError("inputs hold NaN or infinite values; remove or repair those samples")
        if self.bounds is not None and inputs.numel():
            least, largest = float(inputs.min()), float(inputs.max())
            # In the inputs' precision: 0.1 is a little more in float32.
            low, high = inputs.new_tensor(self.bounds).tolist()
            if least < low or largest > high:
                raise InputError(
                    f"inputs lie in [{least:.6g}, {largest:.6g}], outside the data set's bounds {list(self.bounds)}"
                )

    def clip(self, inputs: Tensor) -> Tensor:
        """Inputs within the bounds."""
        return inputs if self.bounds is None else inputs.clamp(*self.bounds)

    def project(self, inputs: Tensor, moved: Tensor) -> Tensor:
        """`moved` (B, *shape) brought back into the budget around inputs, up to rounding."""
        if self.eps == inf:
            return self.clip(moved)
        eps = self.inner_eps
        if self.norm == "linf":
            return self.clip(inputs + (moved - inputs).clamp(-eps, eps))
        delta = moved - inputs
        length = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        # Clipping towards inputs that lie within the bounds only shortens.
        return self.clip(inputs + delta * _rows(torch.clamp(eps / length.clamp_min(1e-30), max=1.0), delta))

    def finish(self, inputs: Tensor, moved: Tensor) -> Tensor:
        """`moved` within the budget to the last digit, measured in float64; what is within it stays as it is."""
        moved = self.clip(moved)
        if self.eps == inf:
            return moved
        over = self._outside(inputs, moved)
        moved = torch.where(_rows(over, moved), self.project(inputs, moved), moved)
        for attempt in range(_ROUNDS):
            over = self._outside(inputs, moved)
            if not bool(over.any()):
                return moved
            delta = moved.double() - inputs.double()
            aim = (1 - 10**attempt * _SLACK) * self.eps
            shrink = torch.where(over, aim / perturbation_norm(delta, self.norm).clamp_min(1e-300), 1.0)
            moved = self.clip((inputs.double() + delta * _rows(shrink, delta)).to(moved.dtype))
        return torch.where(_rows(self._outside(inputs, moved), moved), inputs, moved)

    def _outside(self, inputs: Tensor, moved: Tensor) -> Tensor:
        """Where (B,) a perturbation is too long, or not a number."""
        return ~(perturbation_norm(moved.double() - inputs.double(), self.norm) <= self.eps)

    def step(self, gradient: Tensor, size: float) -> Tensor:
        """The move of length `size` along which a linear function with this gradient (B, *shape) grows most."""
        if self.norm == "linf":
            return size * gradient.sign()
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return gradient * _rows(size / length.clamp_min(1e-30), gradient)

    def random_point(self, inputs: Tensor, streams: Streams) -> Tensor:
        """A point drawn uniformly from the ball around each input, then clipped to the bounds."""
        shape = inputs.shape[1:]
        if self.norm == "linf":
            return self.clip(inputs + self.eps * (2 * streams.uniform(*shape).to(inputs) - 1))
        radius = self.eps * streams.uniform().to(inputs) ** (1 / shape.numel())
        return self.clip(inputs + random_directions(streams, shape).to(inputs) * _rows(radius, inputs))


def random_directions(streams: Streams, shape: torch.Size) -> Tensor:
    """Unit vectors (B, *shape), one per stream, uniform on the sphere."""
    draws = streams.normal(*shape)
    return draws / _rows(perturbation_norm(draws, "l2").to(draws.dtype), draws)


def perturbation_norm(delta: Tensor, norm: Norm) -> Tensor:
    """Norms (B,) of perturbations (B, *shape), float64."""
    flat = delta.flatten(1).double()
    return torch.linalg.vector_norm(flat, inf if norm == "linf" else 2, dim=1)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped to multiply samples (B, *shape)."""
    return values.view(-1, *[1] * (like.dim() - 1)).to(like.device)
