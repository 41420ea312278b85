"""Random defenses: where their noise comes from, and how it is repeated."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

# Draws that an attack averages for a random defense that names no number of its own.
_DEFAULT_DRAWS = 20


def is_random(defense: nn.Module) -> bool:
    """Return whether a defense takes its noise from `forward(inputs, generator=None)`."""
    try:
        return "generator" in inspect.signature(defense.forward).parameters
    except (TypeError, ValueError):
        # Compiled modules have no signature.
        return False


def count_draws(defense: nn.Module) -> int:
    """Return how many forward passes an attack averages: 1, or what a random defense says in `draws_to_average`."""
    default = _DEFAULT_DRAWS if is_random(defense) else 1
    return max(1, int(getattr(defense, "draws_to_average", default)))


def answer_by_row(defense: nn.Module, inputs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Ask a random defense for each row by itself, with noise of its own.

    So the answer to a row depends on nothing but the row and its generator.

    Args:
        defense: a random defense.
        inputs: (B, *shape).
        generators: one for each row.

    Returns:
        Logits (B, C).
    """
    rows = zip(inputs.split(1), generators, strict=True)
    return torch.cat([defense(row, generator=generator) for row, generator in rows])


class WithNoise(nn.Module):
    """A random defense that takes its noise from a given generator, as attacks ask it.

    Attributes:
        draws_to_average: forward passes that an attack averages.
    """

    def __init__(self, defense: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.defense = defense
        self._generator = generator
        self.draws_to_average = count_draws(defense)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape) to logits (B, C)."""
        return self.defense(inputs, generator=self._generator)


class PurifierWithNoise(WithNoise):
    """A random purifier that takes its noise from a given generator."""

    @property
    def classifier(self) -> nn.Module:
        """What is asked for the logits of the purified inputs."""
        return cast(nn.Module, self.defense.classifier)

    def purify(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape) to purified ones."""
        return cast(Any, self.defense).purify(inputs, generator=self._generator)


def fix_noise(defense: nn.Module, seed: int) -> nn.Module:
    """Return a random defense with noise that follows from a seed; any other one as it is."""
    if not is_random(defense):
        return defense
    purifies = hasattr(defense, "purify") and hasattr(defense, "classifier")
    return (PurifierWithNoise if purifies else WithNoise)(defense, torch.Generator().manual_seed(seed))
