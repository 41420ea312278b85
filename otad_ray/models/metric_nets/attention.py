"""The paper's shallow metric nets of patches (Section V.A): a 1-block ViT and a single attention block."""

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from otad_ray.models.metric_nets.images import ImageKeysConfig, UnitKeyNet
from otad_ray.models.transformer import AttentionResidual, TransformerBlock
from otad_ray.models.vit import image_patches


def default_patch_size(height: int, width: int) -> int:
    """The largest edge that divides both and gives at least as many patches a side as a patch has pixels."""
    shared = gcd(height, width)
    return max(size for size in range(1, shared + 1) if shared % size == 0 and size**2 <= min(height, width))


@dataclass(frozen=True, kw_only=True)
class PatchNetConfig(ImageKeysConfig):
    """patch_size: edge of a patch, which divides both edges. width: of a token, a multiple of num_heads."""

    patch_size: int
    width: int = 128
    num_heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch_size", "width", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.shape[1] % self.patch_size or self.shape[2] % self.patch_size:
            raise ValueError(f"need a patch_size that divides images of {self.shape[1:]}, got {self.patch_size}")
        if self.width % self.num_heads:
            raise ValueError(f"need a width that num_heads divides, got {self.width} and {self.num_heads}")


class _PatchNet(UnitKeyNet):
    """Patch embeddings with positions, mixed as an architecture says and averaged."""

    config: PatchNetConfig

    def __init__(self, config: PatchNetConfig) -> None:
        super().__init__(config, config.width)
        channels, height, width = config.shape
        num_patches = (height // config.patch_size) * (width // config.patch_size)
        self.patch_embedding = nn.Linear(channels * config.patch_size**2, config.width)
        # As large as the patches' share: the mean forgets where a patch was, unless attention has told. On digits, 120
        # steps of training lead to a 5-NN accuracy of 97 to 99 %; with positions of 0.02, to 62 to 66 %.
        self.positions = nn.Parameter(torch.randn(num_patches, config.width))

    def features(self, images: Tensor) -> Tensor:
        patches = image_patches(images, self.config.shape, self.config.patch_size)
        return self.mix(self.patch_embedding(patches) + self.positions).mean(1)

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, width) to (B, N, width)."""
        raise NotImplementedError


class OneBlockViT(_PatchNet):
    """Tokens pass one transformer block, equation (18)."""

    def __init__(self, config: PatchNetConfig) -> None:
        super().__init__(config)
        self.block = TransformerBlock(config.width, config.num_heads, 2 * config.width)

    def mix(self, tokens: Tensor) -> Tensor:
        return self.block(tokens)


class AttentionBlock(_PatchNet):
    """Tokens pass the attention of equation (18) alone."""

    def __init__(self, config: PatchNetConfig) -> None:
        super().__init__(config)
        self.attention = AttentionResidual(config.width, config.num_heads)

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens + self.attention(tokens)
