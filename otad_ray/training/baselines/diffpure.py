"""Training of a diffusion model (Ho et al. 2020): the network predicts the noise in diffused images."""

from dataclasses import dataclass

import torch
from torch import nn

from otad_ray.defenses.baselines.denoiser import Denoiser
from otad_ray.defenses.baselines.diffpure import diffuse
from otad_ray.training.loop import BatchRows, LoopConfig, Step, full_precision
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import SampleProblem


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


class DiffPureProblem(SampleProblem[Denoiser]):
    """The mean squared error of the noise that a denoiser predicts in images, each at a step drawn for it.

    Images are in [0, 1]; their labels are not used.
    """

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        images, _ = self.take(batch.share)
        images = 2 * images - 1
        steps = torch.randint(1, self.network.config.last_step + 1, (len(images),), device=images.device)
        noise = torch.randn_like(images)
        found = full_precision(forward(diffuse(images, steps, noise), steps))
        loss = (found - noise).square().flatten(1).mean(1).sum()
        return Step(loss, {"loss": loss})
