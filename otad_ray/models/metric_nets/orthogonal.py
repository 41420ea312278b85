"""A metric net that is 1-Lipschitz by construction: the robust one that the paper calls for (Section IV.D).

It is made of isometries (zero padding, rearrangements of pixels into channels, circular shifts), of orthogonal or
semi-orthogonal matrices applied at every position, and of sorted pairs. None of them has a bias, so `f(c x) = c f(x)`
for `c >= 0`, and errors are bounded relative to the norm of the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.models.metric_net import MetricNet
from otad_ray.models.metric_nets.images import ImageKeysConfig, check_images

_DOUBLE_ROUNDOFF = torch.finfo(torch.float64).eps / 2
_SINGLE_ROUNDOFF = torch.finfo(torch.float32).eps / 2
# Of quantities computed in float64.
_SLACK = 1 + 1e-9

_LARGEST_GRID = 16
_SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True, kw_only=True)
class OrthogonalConfig(ImageKeysConfig):
    """width: channels of the first of three stages, even; each further stage doubles them. depth: layers of a stage."""

    width: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2 or self.width % 2:
            raise ValueError(f"need an even width >= 2, got {self.width}")
        if self.depth < 1:
            raise ValueError(f"need depth >= 1, got {self.depth}")

    @property
    def patch_size(self) -> int:
        """Edge of the patches whose pixels become channels at first: the smallest power of 2 that makes few enough."""
        size = 1
        while max(self.shape[1:]) > size * _LARGEST_GRID:
            size *= 2
        return size

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width that patches and two halvings divide."""
        unit = 4 * self.patch_size
        return -(-self.shape[1] // unit) * unit, -(-self.shape[2] // unit) * unit


class OrthogonalMatrix(nn.Module):
    """A matrix (rows, columns) with orthonormal columns, or rows where those are fewer, for any parameters.

    With free `U` (k, k) and `V` (n - k, k), the Cayley transform: `A = U - U' + V' V`, and the (n, k) matrix
    `W = [(I + A)^-1 (I - A); -2 V (I + A)^-1]` has `W' W = I`. The symmetric part of `I + A` is at least `I`, so its
    inverse has norm at most 1 and the solve is accurate for any parameters. (PyTorch's own parametrization inverts
    n x n, or differentiates k reflectors in turn: 41 s for 4096 x 128, where this takes less than 0.1 s.)
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        size, rank = max(rows, columns), min(rows, columns)
        self._is_wide = rows < columns
        # Angles of the rotation are then spread, and as much of a column lies in one block as in the other.
        self.square = nn.Parameter(torch.randn(rank, rank) * (2 * rank) ** -0.5)
        rest = torch.randn(size - rank, rank) * size**-0.5
        if len(rest):
            self.rest = nn.Parameter(rest)
        else:
            self.register_buffer("rest", rest, persistent=False)

    def forward(self, dtype: torch.dtype) -> Tensor:
        """The matrix, computed in this dtype."""
        # Mixed precision would leave it orthogonal to 1e-2.
        with torch.autocast(self.square.device.type, enabled=False):
            square, rest = self.square.to(dtype), self.rest.to(dtype)
            generator = square - square.T + rest.T @ rest
            identity = torch.eye(len(square), dtype=dtype, device=square.device)
            inverse = torch.linalg.solve(identity + generator, identity)
            tall = torch.cat([2 * inverse - identity, -2 * rest @ inverse])
        return tall.T if self._is_wide else tall


class _FixedMatrices:
    """The float64 matrices of a net in evaluation mode, in the order in which they are applied, and what they prove."""

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        self.matrices = matrices

    @cached_property
    def norms(self) -> list[float]:
        return [float(torch.linalg.matrix_norm(matrix, 2)) for matrix in self.matrices]

    @cached_property
    def lipschitz(self) -> float:
        return prod(self.norms) * _SLACK

    @cached_property
    def rounding(self) -> float:
        size, error = 1.0, 0.0
        for matrix, norm in zip(self.matrices, self.norms, strict=True):
            products = matrix.shape[1] * _DOUBLE_ROUNDOFF
            gamma = products / (1 - products)
            error = norm * error + gamma * float(torch.linalg.matrix_norm(matrix)) * (size + error)
            size *= norm
        return (error + 2 * _SINGLE_ROUNDOFF * (size + error)) * _SLACK


class OrthogonalNet(MetricNet):
    """Three stages on grids of at most 16, 8 and 4 positions a side; a matrix then reads the whole last grid.

    In evaluation mode the matrices are constants and everything is computed in float64; keys have the inputs' dtype.
    Parameters are trained in training mode, in the inputs' dtype.
    """

    config: OrthogonalConfig

    def __init__(self, config: OrthogonalConfig) -> None:
        super().__init__()
        self.config = config
        self.shape = config.shape
        self.num_keys = config.num_keys
        widths = [config.width, 2 * config.width, 4 * config.width]
        patch_values = config.shape[0] * config.patch_size**2
        arrivals = [(widths[0], patch_values)] + [(after, 4 * before) for before, after in pairwise(widths)]
        self.layers = nn.ModuleList()
        for width, arrival in zip(widths, arrivals, strict=True):
            self.layers.append(OrthogonalMatrix(*arrival))
            self.layers.extend(OrthogonalMatrix(width, width) for _ in range(config.depth))
        height, width = (edge // (4 * config.patch_size) for edge in config.padded)
        self.layers.append(OrthogonalMatrix(config.num_keys, widths[-1] * height * width))
        self._kept: tuple[object, _FixedMatrices] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        check_images(inputs, self.shape)
        if self.training:
            return self._keys(inputs, [layer(self.layers[0].square.dtype).to(inputs.dtype) for layer in self.layers])
        return self._keys(inputs.double(), self._fixed.matrices).to(inputs.dtype)

    def lipschitz_bound(self) -> float:
        """The product of the matrices' spectral norms: everything else is 1-Lipschitz.

        Of the computed matrices, not of those they approximate.
        """
        return self._fixed.lipschitz

    def rounding(self) -> float:
        """A proven `e`: in evaluation mode, keys of an input of norm n are computed right to `e n`.

        Padding, rearrangements, shifts and sorting are exact and keep norms. A product with `W` (k columns) has
        `|fl(W h) - W h| <= gamma_k | |W| |h| | <= gamma_k |W|_F |h|` at each position, in whatever order it is summed,
        hence over all of them too; `gamma_k = k u / (1 - k u)`, `u = 2^-53`. Without biases the exact `h_i` after `i`
        matrices has `|h_i| <= s_i n`, `s_i` the product of their spectral norms. Each layer being Lipschitz, the
        computed one errs by `e_i n` with `e_i = |W_i| e_{i-1} + gamma_k |W_i|_F (s_{i-1} + e_{i-1})`.
        Rounding to float32 adds `2^-24 (s + e) n` (underflow apart: n above 1e-30, or 0). That share is counted twice:
        another machine's LAPACK finds these matrices from the same parameters to about 1e-13 only, and keys made there
        must be covered.
        """
        return self._fixed.rounding

    def _keys(self, images: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        (height, width), patch_size = self.config.padded, self.config.patch_size
        padding = (0, width - images.shape[3], 0, height - images.shape[2])
        grid = functional.pad(images, padding).permute(0, 2, 3, 1)
        remaining = iter(matrices)
        for factor in (patch_size, 2, 2):
            grid = _sort_pairs(_gather(grid, factor) @ next(remaining).T)
            for _ in range(self.config.depth):
                grid = _sort_pairs(_shift(grid) @ next(remaining).T)
        return grid.flatten(1) @ next(remaining).T

    @property
    def _fixed(self) -> _FixedMatrices:
        """Made anew when weights change."""
        key = tuple((id(p), p._version, p.dtype, p.device) for p in self.parameters())
        if self._kept is None or self._kept[0] != key:
            # Whoever comes first may be in inference mode; later ones may need gradients.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (key, _FixedMatrices([layer(torch.float64) for layer in self.layers]))
        return self._kept[1]


def _gather(grid: Tensor, factor: int) -> Tensor:
    """(B, H, W, C) to (B, H / factor, W / factor, C factor^2): the positions of a square become channels of one."""
    batch, height, width, channels = grid.shape
    squares = grid.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return squares.transpose(2, 3).flatten(3)


def _shift(grid: Tensor) -> Tensor:
    """Move a fifth of the channels by one position in each direction, around the edges: what positions see overlaps."""
    parts = grid.tensor_split(len(_SHIFTS), dim=3)
    moved = (torch.roll(part, shift, dims=(1, 2)) for part, shift in zip(parts, _SHIFTS, strict=True))
    return torch.cat(list(moved), 3)


def _sort_pairs(grid: Tensor) -> Tensor:
    """Each channel of the first half with its partner in the second: the larger one first. 1-Lipschitz, keeps norms."""
    first, second = grid.chunk(2, dim=3)
    return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 3)
