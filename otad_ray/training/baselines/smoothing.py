"""Training of the base classifier of randomized smoothing: on images with Gaussian noise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from otad_ray.defenses.baselines.smoothing import NoiseConv
from otad_ray.training.baselines.classifier import train_on_changed_inputs
from otad_ray.training.loop import LoopConfig
from otad_ray.training.state import EpochMetrics, TrainingStore


@dataclass(frozen=True, kw_only=True)
class SmoothingSettings(LoopConfig):
    """How the base classifier is trained, and how large it is.

    Attributes:
        sigma: standard deviation of the noise, in the inputs' units; the smoothed classifier uses the same.
        width: channels of the first layer; the second has twice as many.
        hidden: units of the layer before the logits.
    """

    sigma: float = 0.25
    width: int = 16
    hidden: int = 100


def train_smoothing(
    network: NoiseConv,
    inputs: Tensor,
    labels: Tensor,
    config: SmoothingSettings,
    *,
    classifier: nn.Module | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> None:
    """Train the base classifier in place, on inputs with new noise in each step; the noise is not clipped.

    Args:
        network: the classifier. The noise is that of its own configuration.
        inputs: (N, *shape).
        labels: (N,) int64 classes.
        config: the settings.
        classifier: not used.
        on_epoch: called after each epoch.
        store: where checkpoints are kept.
    """
    sigma = network.config.sigma

    def add_noise(batch: Tensor, targets: Tensor) -> Tensor:
        return batch + sigma * torch.randn_like(batch)

    train_on_changed_inputs(network, inputs, labels, config, add_noise, on_epoch=on_epoch, store=store)
