"""Training of the base classifier of randomized smoothing: on images with Gaussian noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.defenses.baselines.smoothing import NoiseConv
from otad_ray.training.baselines.classifier import ChangedInputs
from otad_ray.training.loop import LoopConfig


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


class SmoothingProblem(ChangedInputs[NoiseConv]):
    """The loss of the base classifier on inputs with new noise in each step, as large as its configuration says.

    The noise is not clipped.
    """

    def change(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return inputs + self.network.config.sigma * torch.randn_like(inputs)
