"""Skew orthogonal convolutions, against the exponential of the dense matrix."""

import torch
from torch.nn import functional

from otad_ray.defenses.baselines.layers.skew_convolution import Householder, SkewConvolution, apply_at_frequencies

GRID = (4, 6)


def make_layer(inputs: int = 3, outputs: int = 3) -> SkewConvolution:
    torch.manual_seed(0)
    return SkewConvolution(inputs, outputs, GRID).eval()


def dense(apply, channels: int) -> torch.Tensor:
    """The matrix of a linear map of images (channels, *GRID)."""
    size = channels * GRID[0] * GRID[1]
    basis = torch.eye(size, dtype=torch.float64).view(size, channels, *GRID)
    return apply(basis).flatten(1).T


@torch.no_grad()
def test_series_is_the_exponential_of_the_convolution() -> None:
    layer = make_layer()
    kernel = layer.filter().double()

    def convolve(images: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="circular"), kernel)

    skew = dense(convolve, 3)
    torch.testing.assert_close(skew, -skew.T)
    matrices = layer.matrices(torch.float64, 25)
    found = dense(lambda images: apply_at_frequencies(matrices, images), 3)
    torch.testing.assert_close(found, torch.linalg.matrix_exp(skew), rtol=0, atol=1e-10)
    torch.testing.assert_close(found @ found.T, torch.eye(len(found), dtype=torch.float64), rtol=0, atol=1e-9)


@torch.no_grad()
def test_norm_by_frequency_is_that_of_the_dense_matrix_also_of_a_short_series() -> None:
    for inputs, outputs in ((3, 3), (4, 2), (2, 4)):
        layer = make_layer(inputs, outputs)
        for power in (2, 5):
            matrices = layer.matrices(torch.float64, power)
            matrix = dense(lambda images, blocks=matrices: apply_at_frequencies(blocks, images), inputs)
            exact = torch.linalg.matrix_norm(matrix, 2)
            torch.testing.assert_close(torch.linalg.matrix_norm(matrices, 2).max(), exact, rtol=1e-9, atol=0)
    # A short series is not orthogonal: a certificate that took 1 for its norm would be wrong.
    assert float(exact) > 1 + 1e-6


@torch.no_grad()
def test_householder_keeps_norms_and_is_1_lipschitz() -> None:
    layer = Householder(4).double()
    layer.angle.copy_(torch.tensor([0.3, -1.2]))
    x, y = torch.randn(2, 200, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    assert bool(((layer(x) - layer(y)).flatten(1).norm(dim=1) <= (x - y).flatten(1).norm(dim=1) * (1 + 1e-12)).all())
