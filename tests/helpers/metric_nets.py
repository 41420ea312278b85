"""Small metric nets and images for them."""

import torch

from otad_ray.models.metric_net import MetricNet
from otad_ray.models.metric_nets import MetricNetConfig, build_metric_net

DIGIT, COLOR = (1, 8, 8), (3, 32, 32)


def new_net(
    architecture: str, shape: tuple[int, ...] = DIGIT, *, width: int | None = None, num_keys: int = 128, seed: int = 0
) -> MetricNet:
    """Return a net of the architecture, with weights that the seed decides."""
    torch.manual_seed(seed)
    return build_metric_net(MetricNetConfig(architecture=architecture, width=width, num_keys=num_keys), shape=shape)


def images(shape: tuple[int, ...], count: int = 5, seed: int = 1) -> torch.Tensor:
    """Return random images (count, *shape) in [0, 1]."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
