"""Layers of skew orthogonal convolutions (Singla and Feizi 2021, 2022): the convolution, and its activation.

A filter `A` that is skew-symmetric as a convolution makes `exp(A)` orthogonal. Here convolutions wrap around the image:
then the two-dimensional Fourier transform takes `A` apart into one skew-Hermitian matrix (C, C) for each frequency, and
the exponential series, its products with images and its exact norm are all computed frequency by frequency.
"""

from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional

# What a filter is scaled to, by the norm of one of its reshapings.
_CORRECTION = 0.7
_FIRST_ITERATIONS = 50


class SkewConvolution(nn.Module):
    """The exponential of a skew-symmetric 3 x 3 convolution that wraps around images of one size, and a bias.

    With fewer outputs than inputs it keeps the first channels of the exponential; with more it starts with zeros in the
    last channels. Both are blocks of an orthogonal matrix.

    Attributes:
        grid: height and width of its images.
    """

    def __init__(self, num_inputs: int, num_outputs: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self._sizes = num_outputs, num_inputs
        channels = max(self._sizes)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) * channels**-0.5)
        self.bias = nn.Parameter((2 * torch.rand(num_outputs) - 1) * num_outputs**-0.5)
        self.left: Tensor
        self.register_buffer("left", functional.normalize(torch.randn(channels), dim=0))
        if self.weight.is_meta:
            # A layer that is built for its shapes alone has no values to iterate on.
            return
        for _ in range(_FIRST_ITERATIONS):
            self._improve_left(self._skew())

    def filter(self) -> Tensor:
        """Return the skew-symmetric filter `A` (C, C, 3, 3), scaled; in training mode, with one power iteration."""
        skew = self._skew()
        if self.training:
            self._improve_left(skew)
        # A copy, because the next step changes the buffer.
        return _CORRECTION * skew / (self.left.clone() @ skew.flatten(1)).norm()

    def matrices(self, dtype: torch.dtype, power: int) -> Tensor:
        """Compute the matrices of the truncated series.

        Args:
            dtype: float32 or float64.
            power: the highest power `K` of `sum_k A^k / k!`.

        Returns:
            (H, W // 2 + 1, outputs, inputs), complex: for each frequency of a real image.
        """
        blocks = transform_filter(self.filter().to(dtype), self.grid)
        num_outputs, num_inputs = self._sizes
        return exponential_series(blocks, power)[..., :num_outputs, :num_inputs]

    def _skew(self) -> Tensor:
        # The transpose of a convolution has its input and output channels exchanged and its filter turned around.
        return (self.weight - self.weight.transpose(0, 1).flip(2, 3)) / 2

    @torch.no_grad()
    def _improve_left(self, skew: Tensor) -> None:
        """Take one step of the power iteration for the left singular vector of the filter as a matrix (C, 9 C)."""
        matrix = skew.flatten(1)
        self.left.copy_(functional.normalize(matrix @ (self.left @ matrix), dim=0))


def transform_filter(kernel: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return what a filter (C, C, 3, 3), centered, does at each frequency of images (H, W): (H, W // 2 + 1, C, C)."""
    offsets = torch.arange(-1, 2, dtype=kernel.dtype, device=kernel.device)
    rows, columns = (
        torch.exp(2j * pi * torch.outer(torch.arange(count, dtype=kernel.dtype, device=kernel.device), offsets) / edge)
        for count, edge in ((grid[0], grid[0]), (grid[1] // 2 + 1, grid[1]))
    )
    return torch.einsum("oiab,ha,wb->hwoi", kernel.to(rows.dtype), rows, columns)


def exponential_series(matrices: Tensor, power: int) -> Tensor:
    """Return `sum_{k <= power} A^k / k!` of matrices `A` (..., C, C)."""
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    total = identity + matrices / power
    for k in range(power - 1, 0, -1):
        total = identity + matrices @ total / k
    return total


def apply_at_frequencies(matrices: Tensor, images: Tensor) -> Tensor:
    """Multiply images (B, inputs, H, W) by matrices (H, W // 2 + 1, outputs, inputs): (B, outputs, H, W)."""
    spectrum = torch.fft.rfft2(images).permute(2, 3, 1, 0)
    return torch.fft.irfft2((matrices @ spectrum).permute(3, 2, 0, 1), s=images.shape[2:])


class Householder(nn.Module):
    """The activation of order 1: pairs of channels beyond a line through 0 are reflected at it.

    A pair z is mapped to `z + 2 max(-v'z, 0) v` with `v = (sin(t / 2), -cos(t / 2))`: 1-Lipschitz, and it keeps norms.
    At the angle `t = pi / 2`, where it starts, it sorts the pair. The parameters are differences to that, so that
    weight decay leads there.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.angle = nn.Parameter(torch.zeros(num_channels // 2))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to images of that shape."""
        half = ((self.angle.to(images.dtype) + pi / 2) / 2).view(-1, 1, 1)
        sine, cosine = half.sin(), half.cos()
        first, second = images.chunk(2, dim=1)
        excess = 2 * functional.relu(second * cosine - first * sine)
        return torch.cat([first + excess * sine, second - excess * cosine], 1)
