"""Small memories whose features are chosen, not computed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, BackboneConfig, build_backbone

Build = Callable[[Tensor, Tensor], tuple[Backbone, NeighborMemory]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(points, features)`: a memory and a backbone, the head of which reads the classes off the features."""

    def make(points: Tensor, features: Tensor, num_outputs: int = 3) -> tuple[Backbone, NeighborMemory]:
        net = build_backbone(BackboneConfig(num_blocks=1), dimension=points.shape[1], num_outputs=num_outputs)
        with torch.no_grad():
            net.classifier.weight.copy_(torch.eye(num_outputs, points.shape[1]))
            net.classifier.bias.zero_()
        labels = features[:, :num_outputs].argmax(1)
        memory = NeighborMemory.build(
            tmp_path / f"memory{len(list(tmp_path.iterdir()))}",
            None,
            [points],
            [features],
            [labels],
            [torch.arange(len(points))],
            provenance={"backbone": net.fingerprint()},
        )
        return net.eval(), memory

    return make


@pytest.fixture
def clouds(build: Build) -> tuple[Backbone, NeighborMemory, Tensor]:
    """Three overlapping clouds of 660 points in 8 dimensions, features noisy one-hot classes; and 20 queries."""
    generator = torch.Generator().manual_seed(0)
    centers = 2.5 * torch.randn(3, 8, generator=generator)
    labels = torch.arange(660) % 3
    points = centers[labels] + torch.randn(660, 8, generator=generator)
    features = 3 * torch.eye(3, 8)[labels] + 0.2 * torch.randn(660, 8, generator=generator)
    queries = centers[torch.arange(20) % 3] + torch.randn(20, 8, generator=generator)
    # Some between the clouds, with neighbors of several classes.
    queries[:6] = centers[torch.arange(6) % 3].lerp(centers[(torch.arange(6) + 1) % 3], 0.5)
    queries[:6] += 0.4 * torch.randn(6, 8, generator=generator)
    return *build(points, features), queries
