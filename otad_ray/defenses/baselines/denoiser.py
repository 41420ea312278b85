"""The network of a diffusion model: a small U-Net that predicts the noise in an image."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.models.checkpoints import Architecture, Family

# Steps of the whole diffusion (Ho et al. 2020).
NUM_STEPS = 1000
_NUM_GROUPS = 4


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Which network removes the noise, and from what it is removed.

    Attributes:
        shape: (channels, height, width) of an image.
        width: channels at full resolution, a multiple of 4; there are twice as many below.
        last_step: t*, the step that an input is diffused to. The network knows no step above it.
        reverse_steps: calls of the network that lead from last_step back to 0.
    """

    shape: tuple[int, ...]
    width: int = 16
    last_step: int = 100
    reverse_steps: int = 10

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or min(self.shape[1:]) < 4:
            raise ValueError(f"need images (channels, height, width) of at least 4 x 4 pixels, got shape {self.shape}")
        if self.width < _NUM_GROUPS or self.width % _NUM_GROUPS:
            raise ValueError(f"need a width that is a positive multiple of {_NUM_GROUPS}, got {self.width}")
        if not 1 <= self.last_step <= NUM_STEPS:
            raise ValueError(f"need 1 <= last_step <= {NUM_STEPS}, got {self.last_step}")
        if not 1 <= self.reverse_steps <= self.last_step:
            raise ValueError(f"need 1 <= reverse_steps <= last_step ({self.last_step}), got {self.reverse_steps}")


class Denoiser(nn.Module):
    """A small U-Net that predicts the noise in a diffused image.

    There are two halvings, a residual block at each resolution on the way down and up, and no normalization over the
    batch: what comes of an image does not depend on the others.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        channels, width = config.shape[0], config.width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down_full = _Block(width, width, 4 * width)
        self.to_half = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down_half = _Block(2 * width, 2 * width, 4 * width)
        self.to_quarter = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.middle = _Block(2 * width, 2 * width, 4 * width)
        self.up_half = _Block(4 * width, 2 * width, 4 * width)
        self.up_full = _Block(3 * width, width, 4 * width)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, noisy: Tensor, steps: Tensor) -> Tensor:
        """Predict the noise.

        Args:
            noisy: (B, *shape), diffused images; before the diffusion, they were in [-1, 1].
            steps: (B,) int64, to which step each was diffused.

        Returns:
            (B, *shape), the expected noise.
        """
        time = self.time(_embed_steps(steps, self.config.width).to(noisy))
        full = self.down_full(self.enter(noisy), time)
        half = self.down_half(self.to_half(full), time)
        quarter = self.middle(self.to_quarter(half), time)
        half = self.up_half(_enlarge_onto(quarter, half), time)
        return self.leave(self.up_full(_enlarge_onto(half, full), time))


class _Block(nn.Module):
    """A residual block of two convolutions, between which the embedded step is added."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(_NUM_GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.shift = nn.Linear(time, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(_NUM_GROUPS, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.pass_by = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        inner = self.first(images) + self.shift(time)[:, :, None, None]
        return self.pass_by(images) + self.second(inner)


def _embed_steps(steps: Tensor, width: int) -> Tensor:
    """Return sines and cosines (B, width) of steps (B,), at frequencies from 1 down to 1 / NUM_STEPS."""
    frequencies = torch.exp(-log(NUM_STEPS) * torch.linspace(0, 1, width // 2, device=steps.device))
    angles = steps[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def _enlarge_onto(small: Tensor, large: Tensor) -> Tensor:
    """Enlarge feature maps to the size of others, which may be odd, and join the channels of both."""
    return torch.cat([functional.interpolate(small, size=large.shape[2:], mode="nearest"), large], 1)


DENOISERS: Family[Denoiser] = Family("denoiser", {"denoiser": Architecture(DenoiserConfig, Denoiser)})
