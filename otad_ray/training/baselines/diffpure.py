"""Training of a diffusion model (Ho et al. 2020): the network predicts the noise in diffused images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otad_ray.defenses.baselines.denoiser import Denoiser
from otad_ray.defenses.baselines.diffpure import diffuse
from otad_ray.training.loop import BatchRows, InPrecision, LoopConfig, Step, full_precision, minimize
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import Samples
from otad_ray.training.state import EpochMetrics, TrainingStore


@dataclass(frozen=True, kw_only=True)
class DiffPureSettings(LoopConfig):
    """How a denoiser is trained, how large it is, and how it purifies; see `DenoiserConfig`.

    Attributes:
        width: channels at full resolution.
        last_step: the step of 1000 that an input is diffused to, and the last one that is trained.
        reverse_steps: calls of the network that lead back to 0.
    """

    weight_decay: float = 0.0
    width: int = 8
    last_step: int = 100
    reverse_steps: int = 5


def train_diffpure(
    network: Denoiser,
    inputs: Tensor,
    labels: Tensor,
    config: DiffPureSettings,
    *,
    classifier: nn.Module | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> None:
    """Train a denoiser in place, as `minimize` does; a step's loss is that of one diffusion of each row.

    Args:
        network: the denoiser.
        inputs: images (N, *shape) in [0, 1].
        labels: not used.
        config: the settings.
        classifier: not used.
        on_epoch: called after each epoch.
        store: where checkpoints are kept.
    """
    minimize(_DenoisingProblem(network, inputs, labels, config), config, on_epoch=on_epoch, store=store)


class _DenoisingProblem:
    """The mean squared error of the predicted noise, at a step drawn for each row."""

    def __init__(self, network: Denoiser, inputs: Tensor, labels: Tensor, config: DiffPureSettings) -> None:
        self.network = network
        self.forward = InPrecision(network, config.precision)
        self.num_rows = len(inputs)
        self._samples = Samples(inputs, labels, "none", config.seed)

    @property
    def identity(self) -> Any:
        return self._samples.identity

    def start_epoch(self, epoch: int) -> None:
        self._samples.start_epoch(epoch)

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        device = next(self.network.parameters()).device
        images = 2 * self._samples.take_inputs(batch.share, device) - 1
        steps = torch.randint(1, self.network.config.last_step + 1, (len(images),), device=device)
        noise = torch.randn_like(images)
        found = full_precision(forward(diffuse(images, steps, noise), steps))
        loss = (found - noise).square().flatten(1).mean(1).sum()
        return Step(loss, {"loss": loss})
