"""The vision transformer of OTAD-T as a transport map: patch embeddings are its points, encoder outputs its features.

Paper, Section IV.B. The patch embedding is affine, so points lie in an affine subspace of at most as many dimensions as
the image has: with a QR decomposition `W = Q R` of the patches' matrix, `R p` are coordinates of a patch's token.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from otad_ray.models.backbone import Backbone, LinearMargins
from otad_ray.models.point_space import TokenSpace
from otad_ray.models.transformer import MlpEnd, TransformerBlock

Pooling = Literal["mean", "class_token"]

_SINGLE_EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class ViTArchitecture:
    """A vision transformer of images.

    shape: (channels, height, width) of an image. num_outputs: C. patch_size: edge of a patch, which divides both edges.
    width: of a token. hidden: of the blocks' MLPs. pooling: what the head reads, the tokens' mean or a class token.
    center, scale: pixels are taken as `(x - center) / scale`.
    """

    shape: tuple[int, int, int]
    num_outputs: int
    patch_size: int
    width: int
    num_blocks: int
    num_heads: int
    hidden: int
    mlp_ends_with: MlpEnd = "linear"
    pooling: Pooling = "mean"
    center: float = 0.5
    scale: float = 0.25

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        for name in ("num_outputs", "patch_size", "width", "num_blocks", "num_heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if len(self.shape) != 3:
            raise ValueError(
                f"a vision transformer needs images (channels, height, width), got samples of {self.shape}"
            )
        if self.shape[1] % self.patch_size or self.shape[2] % self.patch_size:
            raise ValueError(f"need a patch_size that divides images of {self.shape[1:]}, got {self.patch_size}")
        if self.width % self.num_heads:
            raise ValueError(f"need a width that num_heads divides, got {self.width} and {self.num_heads}")
        if self.scale <= 0:
            raise ValueError(f"need scale > 0, got {self.scale}")

    @property
    def num_patches(self) -> int:
        return (self.shape[1] // self.patch_size) * (self.shape[2] // self.patch_size)

    @property
    def patch_values(self) -> int:
        return self.shape[0] * self.patch_size**2


def image_patches(images: Tensor, shape: tuple[int, int, int], patch_size: int) -> Tensor:
    """Images (B, *shape) as rows of their patches (B, N, channels * patch_size^2); ValueError for another shape."""
    if images.shape[1:] != shape:
        raise ValueError(f"this network takes images of shape {shape}, got {tuple(images.shape[1:])}")
    channels, height, width = shape
    rows, columns = height // patch_size, width // patch_size
    grid = images.reshape(len(images), channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(len(images), rows * columns, channels * patch_size**2)


class ViT(Backbone):
    """`x^k` by (18) from patch embeddings with positions; the head is a LayerNorm and a linear map, without biases."""

    def __init__(self, config: ViTArchitecture) -> None:
        super().__init__()
        self.config = config
        self.num_outputs = config.num_outputs
        self._num_fixed = int(config.pooling == "class_token")
        self._num_tokens = self._num_fixed + config.num_patches
        self.dimension = self._num_tokens * config.width
        self.patch_embedding = nn.Linear(config.patch_values, config.width)
        # Of the class token this is all there is.
        self.positions = nn.Parameter(0.02 * torch.randn(self._num_tokens, config.width))
        blocks = [
            TransformerBlock(config.width, config.num_heads, config.hidden, ends_with=config.mlp_ends_with)
            for _ in range(config.num_blocks)
        ]
        # The map starts as the identity, the shortest path there is.
        for block in blocks:
            block.start_as_identity()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.classifier = nn.Linear(config.width, config.num_outputs, bias=False)
        self._kept_space: tuple[object, tuple[Tensor, TokenSpace]] | None = None

    def embed(self, inputs: Tensor) -> Tensor:
        patches = image_patches(inputs, self.config.shape, self.config.patch_size)
        tokens = self.patch_embedding((patches - self.config.center) / self.config.scale)
        if self._num_fixed:
            tokens = torch.cat([tokens.new_zeros(len(tokens), self._num_fixed, tokens.shape[2]), tokens], 1)
        return (tokens + self.positions).flatten(1)

    def transport(self, points: Tensor) -> tuple[Tensor, Tensor]:
        tokens = points.view(len(points), self._num_tokens, self.config.width)
        energy = torch.zeros_like(points[:, 0])
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            for residual in block.residuals:
                moved = residual(tokens).to(points.dtype)
                energy = energy + moved.square().sum((1, 2))
                tokens = tokens + moved
        return tokens.flatten(1), energy

    def head(self, features: Tensor) -> Tensor:
        tokens = features.view(len(features), self._num_tokens, self.config.width)
        pooled = tokens[:, 0] if self._num_fixed else tokens.mean(1)
        return self.classifier(self.norm(pooled))

    def coordinates(self, inputs: Tensor) -> Tensor:
        patches = image_patches(inputs, self.config.shape, self.config.patch_size)
        return (patches @ self._factor_and_space[0].to(inputs).T).flatten(1)

    @property
    def point_space(self) -> TokenSpace:
        return self._factor_and_space[1]

    def embedding_bound(self) -> float:
        return float(torch.linalg.matrix_norm(self._factor_and_space[0].double(), 2)) * (1 + 1e-9)

    def embedding_rounding(self) -> float:
        # A coordinate is a sum of patch_values products; the rows' norms add up to the Frobenius norm.
        size = float(torch.linalg.matrix_norm(self._factor_and_space[0].double()))
        return (self.config.patch_values + 2) * _SINGLE_EPSILON * size

    def linear_margins(self) -> LinearMargins:
        """Numerators of the margins: the logits are `W diag(gamma) (p - mean(p)) / deviation` of the pooled `p`.

        The deviation is positive and common to all classes. float32 errs relative to `|W_b diag(gamma)| |p|`: in the
        mean over tokens, in centering, in scaling and in the product.
        """
        weighted = self.classifier.weight.detach().double() * self.norm.weight.detach().double()
        numerators = weighted - weighted.mean(1, keepdim=True)
        width, num_patches = self.config.width, self.config.num_patches
        if self._num_fixed:
            weight = numerators.new_zeros(self.num_outputs, self.dimension)
            weight[:, :width] = numerators
            share = 1.0
        else:
            weight = numerators.repeat(1, num_patches) / num_patches
            # Of the mean token's norm in that of all of them.
            share = num_patches**-0.5
        bias = weight.new_zeros(self.num_outputs)
        return LinearMargins(weight, bias, share * weighted.norm(dim=1), num_patches + 3 * width + 16)

    @property
    def _factor_and_space(self) -> tuple[Tensor, TokenSpace]:
        """`R / scale` (m, patch_values), from pixels to coordinates, and their space; anew when weights change."""
        parameters = (self.patch_embedding.weight, self.patch_embedding.bias, self.positions)
        key = tuple((id(parameter), parameter._version, parameter.device) for parameter in parameters)
        if self._kept_space is None or self._kept_space[0] != key:
            with torch.no_grad():
                self._kept_space = (key, self._decompose())
        return self._kept_space[1]

    def _decompose(self) -> tuple[Tensor, TokenSpace]:
        weight, bias, positions = (
            parameter.detach().double().cpu()
            for parameter in (self.patch_embedding.weight, self.patch_embedding.bias, self.positions)
        )
        basis, factor = torch.linalg.qr(weight)
        # Signs are arbitrary: the same everywhere.
        signs = torch.where(factor.diagonal() < 0, -1.0, 1.0).to(factor)
        basis, factor = basis * signs, factor * signs.unsqueeze(1) / self.config.scale
        offset = positions.clone()
        offset[self._num_fixed :] += bias - weight.sum(1) * (self.config.center / self.config.scale)
        device = self.positions.device
        space = TokenSpace(
            basis.float().to(device),
            num_moving=self.config.num_patches,
            num_fixed=self._num_fixed,
            offset=offset.flatten().float().to(device),
        )
        return factor.float().to(device), space
