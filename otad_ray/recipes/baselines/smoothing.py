"""Randomized smoothing in the catalog of baselines."""

from collections.abc import Mapping

import torch
from torch import Tensor

from otad_ray.defenses.baselines.smoothing import NOISE_CLASSIFIERS, NoiseConv, NoiseConvConfig, Smoothing
from otad_ray.recipes.baselines.entry import (
    DEFAULT,
    BaselineEntry,
    Training,
    refuse_all_but_image_classes,
)
from otad_ray.training.baselines.smoothing import SmoothingProblem, SmoothingSettings

_BATCH_ROWS = 1024


def _build(settings: SmoothingSettings, shape: tuple[int, ...], num_outputs: int) -> NoiseConv:
    """Return a new network."""
    return NoiseConv(
        NoiseConvConfig(
            shape=shape,
            num_outputs=num_outputs,
            width=settings.width,
            hidden=settings.hidden,
            sigma=settings.sigma,
        )
    )


@torch.no_grad()
def _measure(network: NoiseConv, inputs: Tensor, targets: Tensor, settings: SmoothingSettings) -> Mapping[str, float]:
    """Return the accuracy on one noisy copy of each row."""
    generator = torch.Generator().manual_seed(0)
    device = next(network.parameters()).device
    right = 0
    for batch, labels in zip(inputs.split(_BATCH_ROWS), targets.split(_BATCH_ROWS), strict=True):
        noisy = batch + network.config.sigma * torch.randn(batch.shape, generator=generator)
        right += int((network(noisy.to(device)).argmax(1).cpu() == labels).sum())
    return {"noisy_accuracy": right / len(inputs)}


ENTRY = BaselineEntry(
    name="smoothing",
    paper="Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, ICML 2019",
    source="the paper: sigma 0.25, n0 = 100, alpha = 0.001; the noise is not clipped",
    changes=(
        "a small convolutional net in place of a ResNet-110, n = 1000 in place of 100,000 in certificates and 100 in "
        "predictions, for two cores; radii are those of predictions by 100 draws, not by infinitely many, so that an "
        "example can refute them: they end at 2.0 sigma, and more draws would raise them"
    ),
    make=lambda parts: Smoothing(parts.network),
    training=Training(
        settings={
            DEFAULT: SmoothingSettings(epochs=10, batch_size=128, learning_rate=2e-3),
            "digits": SmoothingSettings(epochs=30, batch_size=64, learning_rate=3e-3),
            "cifar10": SmoothingSettings(epochs=20, batch_size=128, learning_rate=2e-3, width=32, hidden=256),
        },
        build=_build,
        problem=SmoothingProblem,
        family=NOISE_CLASSIFIERS,
        measure=_measure,
    ),
    refuse=refuse_all_but_image_classes,
    max_samples=50,
)
