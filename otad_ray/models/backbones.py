"""Backbones by name. To add one, add an entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from otad_ray.errors import InputError
from otad_ray.models.backbone import Backbone
from otad_ray.models.checkpoints import Architecture, Family
from otad_ray.models.fc_resnet import FCNetArchitecture, FCPlainNet, FCResNet
from otad_ray.models.transformer import MlpEnd
from otad_ray.models.vit import Pooling, ViT, ViTArchitecture


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A vision transformer's own options; defaults are the paper's.

    Attributes:
        patch_size: edge of a patch: 4 makes 64 patches of a CIFAR image.
        width: of a token.
        num_heads: of attention.
        mlp_ends_with: linear, or gelu as in the authors' code.
        pooling: what the head reads: the mean of the tokens, or a class token.
    """

    patch_size: int = 4
    width: int = 256
    num_heads: int = 8
    mlp_ends_with: MlpEnd = "linear"
    pooling: Pooling = "mean"


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, and how deep.

    Attributes:
        architecture: fc_resnet; fc_plain, the same net without residual connections; or vit.
        num_blocks: m of equation (10); the paper takes 5 for images, and 6 of a vision transformer.
        hidden: inner width of each block (default: the input dimension, as in the paper; of vit, the width of a token).
        vit: options of a vision transformer.
    """

    architecture: str = "fc_resnet"
    num_blocks: int = 5
    hidden: int | None = None
    vit: ViTConfig = field(default_factory=ViTConfig)

    def __post_init__(self) -> None:
        BACKBONES.find(self.architecture)
        for name in ("num_blocks", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"need {name} >= 1, got {value}")


def _fc_net(options: BackboneConfig, shape: tuple[int, ...], num_outputs: int) -> FCNetArchitecture:
    return FCNetArchitecture(
        dimension=prod(shape), num_outputs=num_outputs, num_blocks=options.num_blocks, hidden=options.hidden
    )


def _vit(options: BackboneConfig, shape: tuple[int, ...], num_outputs: int) -> ViTArchitecture:
    return ViTArchitecture(
        shape=shape,  # type: ignore[arg-type]
        num_outputs=num_outputs,
        patch_size=options.vit.patch_size,
        width=options.vit.width,
        num_blocks=options.num_blocks,
        num_heads=options.vit.num_heads,
        hidden=options.hidden or options.vit.width,
        mlp_ends_with=options.vit.mlp_ends_with,
        pooling=options.vit.pooling,
    )


BACKBONES: Family[Backbone] = Family(
    "backbone",
    {
        "fc_resnet": Architecture(FCNetArchitecture, FCResNet),
        "fc_plain": Architecture(FCNetArchitecture, FCPlainNet),
        "vit": Architecture(ViTArchitecture, ViT),
    },
)

# How the options of each architecture, a sample's shape and the number of outputs say its configuration.
_CONFIGURATIONS: Mapping[str, Callable[[BackboneConfig, tuple[int, ...], int], Any]] = {
    "fc_resnet": _fc_net,
    "fc_plain": _fc_net,
    "vit": _vit,
}


def backbone_config(options: BackboneConfig, *, shape: tuple[int, ...], num_outputs: int) -> Any:
    """The architecture's own configuration, for samples of this shape; InputError for options that do not fit them."""
    try:
        return _CONFIGURATIONS[options.architecture](options, shape, num_outputs)
    except ValueError as error:
        raise InputError(f"backbone {options.architecture!r}: {error}") from error


def build_backbone(options: BackboneConfig, *, shape: tuple[int, ...], num_outputs: int) -> Backbone:
    """A new backbone, randomly initialized from torch's global generator."""
    config = backbone_config(options, shape=shape, num_outputs=num_outputs)
    return BACKBONES.find(options.architecture).build(config)


def count_backbone_bytes(options: BackboneConfig, *, shape: tuple[int, ...], num_outputs: int) -> int:
    """Return the bytes of a backbone's parameters and buffers; nothing is allocated for that.

    Args:
        options: which backbone, and how deep.
        shape: of a sample.
        num_outputs: classes, or 1 for a regression.

    Raises:
        InputError: for options that do not fit the samples.
    """
    with torch.device("meta"):
        backbone = build_backbone(options, shape=shape, num_outputs=num_outputs)
    return sum(tensor.numel() * tensor.element_size() for tensor in (*backbone.parameters(), *backbone.buffers()))


def save_backbone(directory: Path, backbone: Backbone) -> None:
    """Write the checkpoint into an existing directory."""
    BACKBONES.save(directory, backbone)


def load_backbone(directory: Path) -> Backbone:
    """The backbone of a checkpoint, in evaluation mode, on the CPU; InputError where it cannot be read."""
    return BACKBONES.load(directory)
