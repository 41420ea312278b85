"""The dimension-invariant fully connected ResNet of the paper, and the same net without residual connections."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from otad_ray.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class FCNetArchitecture:
    """dimension: D of inputs and features. num_outputs: C. num_blocks: m of equation (10).

    hidden: inner width of each block; None is D, as in the paper.
    """

    dimension: int
    num_outputs: int
    num_blocks: int = 5
    hidden: int | None = None

    def __post_init__(self) -> None:
        for name in ("dimension", "num_outputs", "num_blocks", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"need {name} >= 1, got {value}")


class _FCNet(Backbone):
    """Blocks of two linear layers with a ReLU between them, and a linear head."""

    def __init__(self, config: FCNetArchitecture) -> None:
        super().__init__()
        self.config = config
        self.num_outputs = config.num_outputs
        self.dimension = size = config.dimension
        hidden = config.hidden or size
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size)) for _ in range(config.num_blocks)
        )
        self.classifier = nn.Linear(size, config.num_outputs)

    def embed(self, inputs: Tensor) -> Tensor:
        points = inputs.flatten(1)
        if points.shape[1] != self.config.dimension:
            raise ValueError(
                f"this backbone takes samples of {self.config.dimension} values, got shape {tuple(inputs.shape[1:])}"
            )
        return points

    def head(self, features: Tensor) -> Tensor:
        return self.classifier(features)

    def embedding_bound(self) -> float:
        # Points are the inputs themselves.
        return 1.0

    def affine_head(self) -> tuple[Tensor, Tensor]:
        return self.classifier.weight, self.classifier.bias


class FCResNet(_FCNet):
    """`x^k = x^(k-1) + R_k(x^(k-1))`, equation (10)."""

    def __init__(self, config: FCNetArchitecture) -> None:
        super().__init__(config)
        # The map starts as the identity, the shortest path there is.
        for block in self.blocks:
            for parameter in list(block.children())[-1].parameters():
                nn.init.zeros_(parameter)

    def transport(self, points: Tensor) -> tuple[Tensor, Tensor]:
        energy = torch.zeros_like(points[:, 0])
        for block in self.blocks:
            residual = block(points).to(points.dtype)
            energy = energy + residual.square().sum(1)
            points = points + residual
        return points, energy


class FCPlainNet(_FCNet):
    """`x^k = R_k(x^(k-1))`: the comparison of the paper's Table XIII."""

    def transport(self, points: Tensor) -> tuple[Tensor, Tensor]:
        energy = torch.zeros_like(points[:, 0])
        for block in self.blocks:
            moved = block(points).to(points.dtype)
            energy = energy + (moved - points).square().sum(1)
            points = moved
        return points, energy
