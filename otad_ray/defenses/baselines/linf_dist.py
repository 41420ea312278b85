"""The l_inf-distance net (Zhang et al. 2021, 2022): units are distances, so that the net is 1-Lipschitz in linf."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from otad_ray.defenses.baselines.baseline import Baseline
from otad_ray.defenses.baselines.layers.linf_distance import norm_distance
from otad_ray.models.checkpoints import Architecture, Family

_MOMENTUM = 0.1
_ROUNDOFF = torch.finfo(torch.float32).eps / 2
# A distance and the subtraction of a mean round once each; twice that covers what the roundings do to one another.
_ROUNDINGS = 4
METHOD = "margin"


@dataclass(frozen=True, kw_only=True)
class LinfDistConfig:
    """Which net.

    Attributes:
        shape: of a sample.
        num_outputs: classes, at least 2.
        depth: layers, with the one of the logits.
        width: units of a layer.
    """

    shape: tuple[int, ...]
    num_outputs: int
    depth: int = 3
    width: int = 128

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.num_outputs < 2:
            raise ValueError(f"need at least 2 classes, got num_outputs {self.num_outputs}")
        for name in ("depth", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")


class MeanShift(nn.Module):
    """Subtracts the mean of each unit: that of the batch in training mode, and a constant in evaluation mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """Map values (B, width) to values of that shape."""
        if not self.training:
            return values - self.mean
        mean = values.mean(0)
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
        return values - mean


class LinfDistNet(nn.Module):
    """Layers of units `|x - w|_p`, each but the last with its mean subtracted; logits are minus the last distances.

    In evaluation mode p is infinite. A unit then changes by no more than its inputs do, in the largest of them, and so
    do the logits.

    Attributes:
        p: of the distances in training mode.
    """

    def __init__(self, config: LinfDistConfig) -> None:
        super().__init__()
        self.config = config
        self.p = math.inf
        sizes = [math.prod(config.shape), *[config.width] * (config.depth - 1), config.num_outputs]
        self.weights = nn.ParameterList(torch.randn(outputs, inputs) for inputs, outputs in pairwise(sizes))
        self.shifts = nn.ModuleList(MeanShift(size) for size in sizes[1:-1])
        self.bias = nn.Parameter(torch.zeros(config.num_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape) to logits (B, C)."""
        values, p = inputs.flatten(1), self.p if self.training else math.inf
        for weight, shift in zip(self.weights, self.shifts, strict=False):
            values = shift(norm_distance(values, weight, p))
        return self.bias - norm_distance(values, self.weights[-1], p)

    @torch.no_grad()
    def rounding(self, inputs: Tensor) -> Tensor:
        """Bound how far the logits of inputs (B, *shape) are from those without rounding, in evaluation mode: (B,).

        A distance is off by the rounding of one subtraction, a maximum is exact, and what a layer is off by, its
        successors hand on without making it larger.
        """
        values = inputs.flatten(1)
        total = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
        for weight, shift in zip(self.weights, self.shifts, strict=False):
            distances, mean = norm_distance(values, weight), cast(MeanShift, shift).mean
            total += distances.amax(1).double() + mean.abs().max().double()
            values = shift(distances)
        total += norm_distance(values, self.weights[-1]).amax(1).double() + self.bias.abs().max().double()
        return _ROUNDINGS * _ROUNDOFF * total


LINF_NETS: Family[LinfDistNet] = Family("linf net", {"linf_dist": Architecture(LinfDistConfig, LinfDistNet)})


class LinfDist(Baseline):
    """An l_inf-distance net, with certificates in linf, which hold in l2 as well: |d|_inf <= |d|_2."""

    kind = "linf_dist"
    families: ClassVar[Mapping[str, Family[Any]]] = {"network": LINF_NETS}

    def __init__(self, network: LinfDistNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    @torch.no_grad()
    def certified_linf_radius(self, inputs: Tensor) -> tuple[Tensor, list[str]]:
        """Return linf radii (B,) float64 around inputs (B, *shape), half of the margins, and what proves each.

        Each logit changes by at most the perturbation's linf norm, so a margin by at most twice that. What rounding
        may do, here and at the perturbed input, is subtracted.
        """
        first, second = self(inputs).double().topk(2, dim=1).values.unbind(1)
        margin = first - second
        # Two logits at each of two inputs. At the perturbed one, each layer's distances are larger by up to the radius.
        farther = _ROUNDINGS * _ROUNDOFF * self.network.config.depth * margin / 2
        error = 4 * self.network.rounding(inputs) + 2 * farther
        radius = ((margin - error) / 2).clamp_min(0) * (1 - 1e-6)
        return radius, [METHOD if size > 0 else "" for size in radius.tolist()]

    def certified_radius(self, inputs: Tensor) -> tuple[Tensor, list[str]]:
        """Return l2 radii (B,) float64 around inputs (B, *shape): those in linf, whose norm is never the larger one."""
        return self.certified_linf_radius(inputs)
