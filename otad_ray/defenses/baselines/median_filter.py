"""Median filtering of images before a classifier: feature squeezing by spatial smoothing (Xu et al. 2018)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.defenses.baselines.baseline import Purifier
from otad_ray.errors import InputError
from otad_ray.models import BACKBONES
from otad_ray.models.checkpoints import Family

SIZES = (2, 3)


class MedianFilter(Purifier):
    """Each pixel is replaced by the median of the window around it, channel by channel; the result is classified.

    The median of an even number of values is the mean of the two middle ones. A window of 2 x 2 pixels holds the pixel
    and those above it, to the left, and above to the left. Borders are reflected with the border pixel repeated
    ("reflect" in `scipy.ndimage`, "symmetric" in `numpy.pad`): windows reach one pixel out at most, where that is the
    border pixel itself.

    Attributes:
        size: edge of the window in pixels.
    """

    kind = "median_filter"
    families: ClassVar[Mapping[str, Family[Any]]] = {"classifier": BACKBONES}

    def __init__(self, classifier: nn.Module, *, size: int = 3) -> None:
        """Hold the parts.

        Args:
            classifier: maps inputs (B, channels, height, width) to logits (B, C).
            size: edge of the window in pixels, 2 or 3.

        Raises:
            InputError: for another size.
        """
        super().__init__()
        if size not in SIZES:
            raise InputError(f"a median filter has windows of {' or '.join(map(str, SIZES))} pixels, got size {size}")
        self.classifier = classifier
        self.size = size

    def purify(self, inputs: Tensor) -> Tensor:
        """Filter images (B, channels, height, width); differentiable almost everywhere.

        Raises:
            InputError: for inputs that are no images, or images smaller than the window.
        """
        if inputs.dim() != 4 or min(inputs.shape[2:]) < self.size:
            raise InputError(
                f"a median filter of {self.size} x {self.size} pixels needs images (channels, height, width) of at "
                f"least that size, got samples of shape {tuple(inputs.shape[1:])}"
            )
        return _filter_by_2(inputs) if self.size == 2 else _filter_by_3(inputs)

    def settings(self) -> dict[str, Any]:
        return {"size": self.size}


def _filter_by_2(images: Tensor) -> Tensor:
    """Return the mean of the two middle values of each window."""
    images = functional.pad(images, (1, 0, 1, 0), mode="replicate")
    above, below = images[..., :-1, :], images[..., 1:, :]
    low, high = torch.minimum(above, below), torch.maximum(above, below)
    # Of two sorted pairs, the largest low and the smallest high value are the two in the middle.
    return (torch.maximum(low[..., :-1], low[..., 1:]) + torch.minimum(high[..., :-1], high[..., 1:])) / 2


def _filter_by_3(images: Tensor) -> Tensor:
    """Return the fifth of the nine values of each window.

    Columns are sorted first, once for all the windows that share them. The median of the nine is then the median of
    the largest low, the middle of the middle, and the smallest high values of the three columns. This takes a tenth of
    the time that sorting each window takes.
    """
    images = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    column = images[..., :-2, :], images[..., 1:-1, :], images[..., 2:, :]
    low, middle, high = _least(*column), _middle(*column), _largest(*column)
    return _middle(_largest(*_neighbors(low)), _middle(*_neighbors(middle)), _least(*_neighbors(high)))


def _neighbors(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the left, central and right column of each window."""
    return columns[..., :-2], columns[..., 1:-1], columns[..., 2:]


def _least(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.minimum(torch.minimum(a, b), c)


def _largest(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(a, b), c)


def _middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
