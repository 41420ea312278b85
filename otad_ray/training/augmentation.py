"""Images changed as they are trained on."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from otad_ray.errors import InputError

Augmentation = Literal["none", "crop_flip"]
AUGMENTATIONS: tuple[str, ...] = get_args(Augmentation)

# Largest shift, as a part of the edge: 4 of 32 pixels.
_SHIFT = 1 / 8


def check_augmentation(name: str) -> None:
    """InputError, listing the known names, for an unknown augmentation."""
    if name not in AUGMENTATIONS:
        raise InputError(f"unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}")


class CropAndFlip:
    """Random shifts, filled with zeros, and reflections, which follow from seed, epoch and the row's position alone.

    So the number of processes changes nothing, and neither does a restart.
    """

    def __init__(self, *, num_rows: int, edge: int, seed: int) -> None:
        self._num_rows, self._seed = num_rows, seed
        self._shift = max(1, round(_SHIFT * edge))
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Draw for every row."""
        draws = np.random.default_rng((self._seed, epoch, 1))
        self._shifts = torch.from_numpy(draws.integers(0, 2 * self._shift + 1, (self._num_rows, 2)))
        self._flips = torch.from_numpy(draws.random(self._num_rows) < 0.5)

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Images (n, C, H, W) of the rows at positions rows (n,)."""
        height, width = images.shape[2:]
        padded = functional.pad(images, [self._shift] * 4)
        down, right = self._shifts[rows].to(images.device).unbind(1)
        columns = torch.arange(width, device=images.device)
        columns = torch.where(self._flips[rows].to(images.device).unsqueeze(1), columns.flip(0), columns)
        lines = down.unsqueeze(1) + torch.arange(height, device=images.device)
        places = (right.unsqueeze(1) + columns).unsqueeze(1)
        sample = torch.arange(len(images), device=images.device).view(-1, 1, 1)
        # (n, H, W, C): indices around a slice put its axis last.
        return padded[sample, :, lines.unsqueeze(2), places].permute(0, 3, 1, 2)
