"""Purification by a diffusion model (Nie et al. 2022): noise is added to an input, and a trained network removes it."""

from collections.abc import Mapping
from functools import cache, partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from otad_ray.defenses.baselines.baseline import Purifier
from otad_ray.defenses.baselines.denoiser import DENOISERS, NUM_STEPS
from otad_ray.models import BACKBONES
from otad_ray.models.checkpoints import Family

# The diffusion of Ho et al. (2020): beta grows linearly from the first to the last step.
_FIRST_BETA, _LAST_BETA = 1e-4, 0.02


@cache
def signal_shares() -> Tensor:
    """Return the share of the signal's variance that is left after step 0, 1, ... (NUM_STEPS + 1,), float64."""
    betas = torch.linspace(_FIRST_BETA, _LAST_BETA, NUM_STEPS, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


def diffuse(images: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
    """Return images in [-1, 1] (B, *shape) as they are after steps (B,) of the diffusion, by its closed form."""
    shares = signal_shares().to(images)[steps].view(-1, *[1] * (images.dim() - 1))
    return shares.sqrt() * images + (1 - shares).sqrt() * noise


class DiffPure(Purifier):
    """A classifier of inputs that were diffused and brought back.

    Attributes:
        denoiser: predicts the noise in a diffused image.
        draws_to_average: forward passes that an attacker averages.
    """

    kind = "diffpure"
    families: ClassVar[Mapping[str, Family[Any]]] = {"denoiser": DENOISERS, "classifier": BACKBONES}
    draws_to_average = 20

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        """Hold the parts.

        Args:
            denoiser: maps diffused images (B, *shape) and their steps (B,) to the noise in them; its `config` says to
                which step inputs are diffused, and by how many calls they are brought back.
            classifier: maps images (B, *shape) in [0, 1] to logits (B, C).
        """
        super().__init__()
        self.denoiser = denoiser
        self.classifier = classifier

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map images (B, *shape) in [0, 1] to logits (B, C), with noise from a generator on the CPU."""
        return self.classifier(self.purify(inputs, generator))

    def purify(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map images (B, *shape) in [0, 1] to images without the noise that is added, or anything that looks like it.

        The gradient goes through every step; what it needs is computed again, a step at a time.
        """
        config: Any = self.denoiser.config
        draw = partial(torch.randn, inputs.shape, generator=generator)
        places = torch.linspace(config.last_step, 0, config.reverse_steps + 1).round().long().tolist()
        first = torch.full((len(inputs),), config.last_step, device=inputs.device)
        images = diffuse(2 * inputs - 1, first, draw().to(inputs))
        for now, then in pairwise(places):
            noise = draw().to(inputs)
            images = checkpoint(
                self._step_back, images, noise, now, then, use_reentrant=False, preserve_rng_state=False
            )
        return (images.clamp(-1, 1) + 1) / 2

    def _step_back(self, images: Tensor, noise: Tensor, now: int, then: int) -> Tensor:
        """Draw the images after step `then` from those after step `now`: the posterior of Ho et al., equation (7).

        The image itself is estimated from the predicted noise, and kept in its range.
        """
        share, earlier = signal_shares()[now].item(), signal_shares()[then].item()
        steps = torch.full((len(images),), now, device=images.device)
        estimate = (images - (1 - share) ** 0.5 * self.denoiser(images, steps)) / share**0.5
        kept = share / earlier
        weight_of_image = earlier**0.5 * (1 - kept) / (1 - share)
        weight_of_noisy = kept**0.5 * (1 - earlier) / (1 - share)
        variance = (1 - earlier) / (1 - share) * (1 - kept)
        return weight_of_image * estimate.clamp(-1, 1) + weight_of_noisy * images + variance**0.5 * noise
