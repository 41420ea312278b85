"""Convolutional sparse coding in Fourier space: the low-pass part of images, their codes, and dictionaries for them."""

import torch
from torch import Tensor, fft

# The step size of the iterations: the threshold of their shrinkage, for values of about 1; and their over-relaxation.
_THRESHOLD = 0.05
_RELAXATION = 1.8


def smooth(images: Tensor, weight: float, padding: int) -> Tensor:
    """Return the low-pass part of images (N, H, W).

    It is the u that minimizes |u - image|^2 / 2 + weight / 2 |grad u|^2, with finite differences, on the image padded
    by its reflection and continued periodically.
    """
    rows, columns = (_reflected(size, padding, images.device) for size in images.shape[-2:])
    padded = images[..., rows, :][..., columns]
    height, width = padded.shape[-2:]
    vertical = (2 * torch.pi * fft.fftfreq(height, device=images.device)).cos()
    horizontal = (2 * torch.pi * fft.rfftfreq(width, device=images.device)).cos()
    # The squared absolute value of a difference's transfer function is 2 - 2 cos.
    system = 1 + weight * (4 - 2 * vertical[:, None] - 2 * horizontal)
    smoothed = fft.irfft2(fft.rfft2(padded) / system, s=(height, width))
    return smoothed[..., padding : height - padding, padding : width - padding]


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    """Positions (size + 2 padding,) in a row of pixels that is continued by its mirror image again and again."""
    positions = torch.arange(-padding, size + padding, device=device) % (2 * size)
    return torch.minimum(positions, 2 * size - 1 - positions)


def encode(images: Tensor, dictionary: Tensor, sparsity: float, num_iterations: int) -> Tensor:
    """Return sparse codes (N, K, H, W) of images (N, H, W) by a dictionary of filters (K, h, w).

    Convolutional basis pursuit: minimize |sum_k filter_k * code_k - image|^2 / 2 + sparsity |codes|_1, where
    convolution is periodic. Solved by a fixed number of iterations of over-relaxed ADMM from zero, which is written
    here in its one variable, the sum of the split copy and the scaled multiplier (Douglas-Rachford).
    """
    size, threshold = images.shape[-2:], _THRESHOLD
    transfer = fft.rfft2(dictionary, s=size)
    adjoint = transfer.conj()
    gain = _RELAXATION / (sparsity / threshold + transfer.abs().square().sum(0))
    target = fft.rfft2(images)
    state = images.new_zeros(len(images), len(dictionary), *size)
    for _ in range(num_iterations):
        clipped = state.clamp(-threshold, threshold)
        residual = target - (transfer * fft.rfft2(state - 2 * clipped)).sum(1)
        state = state - _RELAXATION * clipped + fft.irfft2(adjoint * (gain * residual)[:, None], s=size)
    return state - state.clamp(-threshold, threshold)


def decode(codes: Tensor, dictionary: Tensor) -> Tensor:
    """Return the images (N, H, W) of codes (N, K, H, W): the sum of the filters' periodic convolutions with them."""
    size = codes.shape[-2:]
    return fft.irfft2((fft.rfft2(dictionary, s=size) * fft.rfft2(codes)).sum(1), s=size)


@torch.no_grad()
def learn_dictionary(
    images: Tensor, dictionary: Tensor, sparsity: float, *, num_rounds: int, num_iterations: int, num_steps: int
) -> Tensor:
    """Learn filters that code images well, by turns: codes for the filters, then filters for the codes.

    Args:
        images: (N, H, W), high-pass parts.
        dictionary: filters (K, h, w) to begin with.
        sparsity: weight of the l1 norm of the codes.
        num_rounds: turns.
        num_iterations: of the coding in each turn.
        num_steps: projected gradient steps on the filters in each turn.

    Returns:
        Filters (K, h, w) of norm 1.
    """
    size, support = images.shape[-2:], dictionary.shape[-2:]
    target = fft.rfft2(images)
    for _ in range(num_rounds):
        codes = fft.rfft2(encode(images, dictionary, sparsity, num_iterations))
        # At each frequency the squared norm of the codes bounds how fast the gradient changes.
        curvature = float(codes.abs().square().sum((0, 1)).max())
        if curvature == 0:
            break
        for _ in range(num_steps):
            residual = (codes * fft.rfft2(dictionary, s=size)).sum(1) - target
            gradient = fft.irfft2((codes.conj() * residual.unsqueeze(1)).sum(0), s=size)
            dictionary = _project(dictionary - gradient[:, : support[0], : support[1]] / curvature)
    return dictionary


def _project(filters: Tensor) -> Tensor:
    """Return filters (K, h, w) with norms of 1."""
    return filters / filters.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1)
