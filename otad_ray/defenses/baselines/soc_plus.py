"""Skew orthogonal convolutions: a network whose layers are orthogonal, with an l2 certificate from its margins.

Singla and Feizi, "Skew orthogonal convolutions" (2021) and "Improved deterministic l2 robustness on CIFAR-10 and
CIFAR-100" (2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.defenses.baselines.baseline import Baseline
from otad_ray.defenses.baselines.layers.skew_convolution import Householder, SkewConvolution, apply_at_frequencies
from otad_ray.models.checkpoints import Architecture, Family

# The highest power of the exponential series.
_TRAINING_POWER = 5
_EVALUATION_POWER = 20
_SINGLE_ROUNDOFF = torch.finfo(torch.float32).eps / 2
# Evaluation is in float64. A product with a matrix (C, C) of norm 1 errs by at most about `4 C sqrt(C)` roundoffs of
# the norm of what it is given: 5e-11 at 2048 channels, the widest published net. Transforms and activations add far
# less.
_LAYER_ERROR = 1e-10
_SLACK = 1 + 1e-9
METHOD = "margin"


@dataclass(frozen=True, kw_only=True)
class SocConfig:
    """Which LipConvNet.

    Attributes:
        shape: (channels, height, width) of an image.
        num_outputs: classes.
        patch_size: edge of the squares whose pixels become channels before the first layer; 1 as published.
        width: channels of the first block, even; each block ends with half the height and width and twice the channels.
        num_blocks: how often height and width are halved.
        depth: convolutions of a block; LipConvNet-5n has 5 blocks of depth n.
        scale: what the centered pixels are multiplied by; 4 as published, where pixels are standardized.
    """

    shape: tuple[int, ...]
    num_outputs: int
    patch_size: int = 1
    width: int = 32
    num_blocks: int = 5
    depth: int = 1
    scale: float = 4.0

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"need images (channels, height, width), got samples of shape {self.shape}")
        for name in ("patch_size", "num_blocks", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.num_outputs < 2:
            raise ValueError(f"need at least 2 classes, got num_outputs {self.num_outputs}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"need an even width >= 2, got {self.width}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"need a finite scale > 0, got {self.scale}")

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the first block's images: such that they can be halved in every block."""
        unit = self.patch_size * 2**self.num_blocks
        height, width = (-(-edge // unit) * 2**self.num_blocks for edge in self.shape[1:])
        return height, width


class Proven(NamedTuple):
    """What is proven of a network in evaluation mode.

    Attributes:
        norms: of the linear maps of its convolutions, in l2; activations are 1-Lipschitz.
        rounding: (a, c): each logit of an input of norm n errs by at most `a n + c`.
    """

    norms: tuple[float, ...]
    rounding: tuple[float, float]


class LipConvNet(nn.Module):
    """Blocks of skew orthogonal convolutions and Householder activations, and a last layer with rows of norm 1.

    In training mode it computes in float32, with few terms of the exponential series. In evaluation mode the matrices
    are constants, with many terms, and everything is computed in float64; logits have the inputs' dtype.
    """

    def __init__(self, config: SocConfig) -> None:
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList()
        (height, width), channels = config.grid, config.width
        arriving = config.shape[0] * config.patch_size**2
        for _ in range(config.num_blocks):
            for _ in range(config.depth - 1):
                self.convolutions.append(SkewConvolution(arriving, channels, (height, width)))
                arriving = channels
            height, width, channels = height // 2, width // 2, 2 * channels
            self.convolutions.append(SkewConvolution(4 * arriving, channels, (height, width)))
            arriving = channels
        self.activations = nn.ModuleList(
            Householder(len(cast(SkewConvolution, layer).bias)) for layer in self.convolutions
        )
        self.last = nn.Linear(channels * height * width, config.num_outputs)
        self._kept: tuple[object, list[Tensor], Proven] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (B, *shape) in [0, 1] to logits (B, C)."""
        if self.training:
            with torch.autocast(inputs.device.type, enabled=False):
                layers = [cast(SkewConvolution, layer) for layer in self.convolutions]
                matrices = [layer.matrices(inputs.dtype, _TRAINING_POWER) for layer in layers]
                return self._logits(inputs, matrices)
        return self._logits(inputs.double(), self.fixed_matrices()).to(inputs.dtype)

    def last_rows(self, dtype: torch.dtype) -> Tensor:
        """Return the weights of the last layer (C, values), each row of norm 1."""
        return functional.normalize(self.last.weight.to(dtype), dim=1)

    def fixed_matrices(self) -> list[Tensor]:
        """Return the float64 matrices of the convolutions, computed once for the same parameters."""
        return self._fix()[0]

    def lipschitz_bound(self) -> float:
        """Return a proven Lipschitz constant, in l2, of the values before the last layer.

        It is the product of the exact norms of the layers: the largest singular value of any of a layer's matrices.
        """
        return self.config.scale * prod(self._fix()[1].norms) * _SLACK

    def rounding(self) -> tuple[float, float]:
        """Return a and c so that each logit of an input of norm n is within `a n + c` of its value without rounding.

        A layer of norm N with a bias maps values of norm n to values of norm at most `N n + |bias|`. It errs by less
        than `_LAYER_ERROR` of that, and the layers after it multiply this error by their norms. At last logits are
        rounded to float32.
        """
        return self._fix()[1].rounding

    def _fix(self) -> tuple[list[Tensor], Proven]:
        """Return the matrices and what they prove, which a change of the parameters makes anew."""
        state = [*self.parameters(), *self.buffers()]
        key = tuple((tensor.data_ptr(), tensor._version, tensor.device) for tensor in state)
        if self._kept is None or self._kept[0] != key:
            # Whoever comes first may be in inference mode; later ones may need gradients.
            with torch.inference_mode(False), torch.no_grad():
                layers = [cast(SkewConvolution, layer) for layer in self.convolutions]
                matrices = [layer.matrices(torch.float64, _EVALUATION_POWER) for layer in layers]
                norms = tuple(float(torch.linalg.matrix_norm(blocks, 2).max()) for blocks in matrices)
                self._kept = key, matrices, Proven(norms, self._bound_rounding(norms))
        return self._kept[1], self._kept[2]

    def _bound_rounding(self, norms: Sequence[float]) -> tuple[float, float]:
        height, width = (edge * self.config.patch_size for edge in self.config.grid)
        # Pixels are centered by 0.5 each, also those that are added around the image.
        size, size_at_0 = self.config.scale, self.config.scale * sqrt(self.config.shape[0] * height * width) / 2
        error, error_at_0 = _LAYER_ERROR * size, _LAYER_ERROR * size_at_0
        for norm, module in zip(norms, self.convolutions, strict=True):
            layer = cast(SkewConvolution, module)
            bias = float(layer.bias.double().norm()) * sqrt(prod(layer.grid))
            size, size_at_0 = norm * size, norm * size_at_0 + bias
            error, error_at_0 = norm * error + _LAYER_ERROR * size, norm * error_at_0 + _LAYER_ERROR * size_at_0
        # The last layer has rows of norm 1.
        size_at_0 += float(self.last.bias.abs().max())
        share = _LAYER_ERROR + _SINGLE_ROUNDOFF
        return (error + share * size) * _SLACK, (error_at_0 + share * size_at_0) * _SLACK

    def _logits(self, inputs: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        config = self.config
        height, width = (edge * config.patch_size for edge in config.grid)
        padded = functional.pad(inputs, (0, width - inputs.shape[3], 0, height - inputs.shape[2]))
        images = functional.pixel_unshuffle(config.scale * (padded - 0.5), config.patch_size)
        for layer, activation, blocks in zip(self.convolutions, self.activations, matrices, strict=True):
            convolution = cast(SkewConvolution, layer)
            images = functional.pixel_unshuffle(images, images.shape[2] // convolution.grid[0])
            images = apply_at_frequencies(blocks, images) + convolution.bias.to(images.dtype).view(-1, 1, 1)
            images = activation(images)
        return functional.linear(images.flatten(1), self.last_rows(images.dtype), self.last.bias.to(images.dtype))


SOC_NETS: Family[LipConvNet] = Family("soc net", {"lip_conv_net": Architecture(SocConfig, LipConvNet)})


class SocPlus(Baseline):
    """A LipConvNet with its certificate in l2, for each pair of classes."""

    kind = "soc_plus"
    families: ClassVar[Mapping[str, Family[Any]]] = {"network": SOC_NETS}

    def __init__(self, network: LipConvNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    @torch.no_grad()
    def certified_radius(self, inputs: Tensor) -> tuple[Tensor, list[str]]:
        """Return l2 radii (B,) float64 around inputs (B, *shape), and what proves each.

        With the Lipschitz constant `s` of the values before the last layer, the margin of class y over class j changes
        by at most `s |w_y - w_j|` times the perturbation's norm. Rounding adds what it may do to two logits, at the
        input of norm n and at the perturbed one of norm at most n + r: `2 (a n + c) + 2 (a (n + r) + c)`.
        """
        logits = self(inputs).double()
        slope, offset = self.network.rounding()
        rows = self.network.last_rows(torch.float64)
        apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") * self.network.lipschitz_bound()
        predicted = logits.argmax(1, keepdim=True)
        error = slope * inputs.flatten(1).double().norm(dim=1, keepdim=True) + offset
        margins = logits.gather(1, predicted) - logits - 4 * error
        radii = margins / (apart[predicted.squeeze(1)] + 2 * slope)
        radius = radii.scatter(1, predicted, torch.inf).amin(1).clamp_min(0) / _SLACK
        return radius, [METHOD if size > 0 else "" for size in radius.tolist()]
