"""Nearest-neighbor defenses whose keys move far for small changes of an input."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from otad_ray.defenses import KNN
from otad_ray.memory import NeighborMemory
from otad_ray.models import BackboneConfig, MetricNet, build_backbone

DIMENSION = 40


@dataclass(frozen=True)
class NoConfig:
    """Of nets without options."""


class LinearMetric(MetricNet):
    """Keys (B, E) of inputs (B, D): `x W'`, weight (E, D)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.num_keys, self.shape = weight.shape[0], (weight.shape[1],)
        self.config = NoConfig()
        self.register_buffer("weight", weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight.T


def fragile_metric() -> LinearMetric:
    """One key, the first component plus 20 times the second."""
    return LinearMetric(torch.tensor([[1.0, 20.0] + (DIMENSION - 2) * [0.0]]))


def two_clouds(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs (num, DIMENSION) and classes (num,): the first component is near -1 or 1, the others near 0."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 2
    x = 0.002 * torch.randn(num, DIMENSION, generator=generator)
    x[:, 0] += 2.0 * y - 1
    return x, y


def knn(directory: Path, metric: MetricNet | None) -> KNN:
    """The 5 nearest of 60 training points; the head tells the sign of the first component."""
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(DIMENSION,), num_outputs=2).eval()
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.weight[:, 0] = torch.tensor([-1.0, 1.0])
        net.classifier.bias.zero_()
        points, labels = two_clouds(60, seed=0)
        features = net.features(points)
        keys = None if metric is None else [metric(points)]
    memory = NeighborMemory.build(
        directory,
        keys,
        [points],
        [features],
        [labels],
        [torch.arange(60)],
        provenance={"backbone": net.fingerprint()},
    )
    return KNN(net, memory, 5, metric)
