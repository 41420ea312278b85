"""Samples with labels, as the loops of backbones and metric nets take them: whole, by position, and augmented."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from otad_ray.errors import InputError
from otad_ray.training.augmentation import Augmentation, CropAndFlip, check_augmentation


class Samples:
    """inputs (N, *shape), changed as they are trained on, and labels (N,); InputError for augmented tables."""

    def __init__(self, inputs: Tensor, labels: Tensor, augmentation: Augmentation, seed: int) -> None:
        self.inputs, self.labels = inputs, labels
        self._augmented = _augmented(inputs, augmentation, seed)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def identity(self) -> Any:
        """Changes when any row does."""
        return [
            list(self.inputs.shape),
            *(hashlib.sha256(rows.cpu().contiguous().numpy().data).hexdigest() for rows in (self.inputs, self.labels)),
        ]

    def start_epoch(self, epoch: int) -> None:
        """Draw what changes the images of an epoch."""
        if self._augmented is not None:
            self._augmented.start_epoch(epoch)

    def take_inputs(self, rows: Tensor, device: torch.device) -> Tensor:
        """Inputs (n, *shape) of the rows at positions rows (n,), as they are trained on, on a device."""
        inputs = self.inputs[rows].to(device)
        return inputs if self._augmented is None else self._augmented(inputs, rows)


def _augmented(inputs: Tensor, augmentation: Augmentation, seed: int) -> CropAndFlip | None:
    check_augmentation(augmentation)
    if augmentation == "none":
        return None
    if inputs.dim() != 4:
        raise InputError(
            f"augmentation {augmentation!r} is for images (channels, height, width), got samples of shape "
            f"{tuple(inputs.shape[1:])}; take augmentation none"
        )
    return CropAndFlip(num_rows=len(inputs), edge=inputs.shape[-1], seed=seed)
