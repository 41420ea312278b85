"""The distances that the l_inf-distance net is made of, with their gradients, in little memory."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Differences that are held at a time: few enough for a processor's cache.
_BLOCK = 2**17
# exp is slow on the CPU where it underflows, and a coordinate with a share of exp(-60) does not count any more.
_LOWEST_EXPONENT = -60.0


def norm_distance(inputs: Tensor, weight: Tensor, p: float = math.inf) -> Tensor:
    """Return the l_p distance of every input to every row of the weight.

    The differences, (B, outputs, features), are never held together: they are computed block by block, and once more
    in the backward pass. `torch.cdist` takes longer, and its p-th powers overflow.

    Args:
        inputs: (B, features).
        weight: (outputs, features).
        p: at least 2, or infinity.

    Returns:
        Distances (B, outputs).
    """
    return _NormDistance.apply(inputs, weight, p)


class _NormDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, p: float) -> Tensor:
        distances = inputs.new_empty(len(inputs), len(weight))
        for rows, outputs in _blocks(len(inputs), *weight.shape):
            sizes = (inputs[rows, None] - weight[outputs]).abs_()
            largest = sizes.amax(2)
            if p < math.inf:
                largest *= _powers(sizes, largest, p).sum(2).pow_(1 / p)
            distances[rows, outputs] = largest
        ctx.save_for_backward(inputs, weight, distances)
        ctx.p = p
        return distances

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, weight, distances = ctx.saved_tensors
        # The derivative in a coordinate is (size / distance) ** (p - 2) * difference / distance.
        factors = gradients[0] / distances.clamp(min=torch.finfo(distances.dtype).tiny)
        of_inputs, of_weight = torch.zeros_like(inputs), torch.zeros_like(weight)
        for rows, outputs in _blocks(len(inputs), *weight.shape):
            differences = inputs[rows, None] - weight[outputs]
            sizes, distance = differences.abs(), distances[rows, outputs]
            slopes = _powers(sizes, distance, ctx.p - 2) if ctx.p < math.inf else sizes.eq_(distance[:, :, None])
            slopes.mul_(differences).mul_(factors[rows, outputs, None])
            of_inputs[rows] += slopes.sum(1)
            of_weight[outputs] -= slopes.sum(0)
        return of_inputs, of_weight, None


def _powers(sizes: Tensor, units: Tensor, exponent: float) -> Tensor:
    """Return (size / unit) ** exponent, in the memory of the sizes (r, outputs, features); units are (r, outputs)."""
    shift = units.log().mul_(-exponent)[:, :, None]
    return torch.add(shift, sizes.log_(), alpha=exponent, out=sizes).clamp_(min=_LOWEST_EXPONENT).exp_()


def _blocks(num_rows: int, num_outputs: int, num_features: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of rows and of outputs that make up all pairs."""
    outputs_held = max(1, min(num_outputs, _BLOCK // num_features))
    rows_held = max(1, _BLOCK // (outputs_held * num_features))
    for row in range(0, num_rows, rows_held):
        for output in range(0, num_outputs, outputs_held):
            yield slice(row, row + rows_held), slice(output, output + outputs_held)
