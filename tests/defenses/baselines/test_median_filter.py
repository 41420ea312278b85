"""Median filters, against SciPy's."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from otad_ray.defenses.baselines import MedianFilter
from otad_ray.errors import InputError


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 3, 3)])
def test_windows_of_3_are_scipys(shape: tuple[int, ...]) -> None:
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, 3, 3), mode="reflect")
    np.testing.assert_array_equal(MedianFilter(nn.Flatten(), size=3).purify(images).numpy(), expected)


def test_windows_of_2_have_the_mean_of_the_two_middle_values() -> None:
    images = torch.rand(4, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = ndimage.generic_filter(images.numpy(), np.median, size=(1, 1, 2, 2), mode="reflect")
    torch.testing.assert_close(MedianFilter(nn.Flatten(), size=2).purify(images), torch.from_numpy(expected))


def test_gradient_is_that_of_the_values_in_the_middle() -> None:
    images = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    for size in (2, 3):
        assert torch.autograd.gradcheck(MedianFilter(nn.Flatten(), size=size), images)


def test_bad_sizes_and_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="2 or 3"):
        MedianFilter(nn.Flatten(), size=5)
    with pytest.raises(InputError, match="samples of shape \\(12,\\)"):
        MedianFilter(nn.Flatten()).purify(torch.rand(2, 12))
