"""Backbones by name, and their checkpoints: `weights.safetensors` beside `backbone.json`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from otad_ray.artifacts import atomic_file, write_json
from otad_ray.errors import InputError
from otad_ray.models.backbone import Backbone
from otad_ray.models.fc_resnet import FCNetConfig, FCPlainNet, FCResNet

_CONFIG_FILE = "backbone.json"
_WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class BackboneKind:
    """A registered backbone: its configuration's type and its builder."""

    config: type
    build: Callable[[Any], Backbone]


BACKBONES: Mapping[str, BackboneKind] = {
    "fc_resnet": BackboneKind(FCNetConfig, FCResNet),
    "fc_plain": BackboneKind(FCNetConfig, FCPlainNet),
}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, and how deep.

    Attributes:
        architecture: fc_resnet, or fc_plain, the same net without residual connections.
        num_blocks: m of equation (10); the paper takes 5 for images.
        hidden: inner width of each block (default: the input dimension, as in the paper).
    """

    architecture: str = "fc_resnet"
    num_blocks: int = 5
    hidden: int | None = None

    def __post_init__(self) -> None:
        _kind(self.architecture)
        for name in ("num_blocks", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"need {name} >= 1, got {value}")


def build_backbone(config: BackboneConfig, *, dimension: int, num_outputs: int) -> Backbone:
    """A new backbone, randomly initialized from torch's global generator."""
    kind = _kind(config.architecture)
    return kind.build(
        kind.config(dimension=dimension, num_outputs=num_outputs, num_blocks=config.num_blocks, hidden=config.hidden)
    )


def save_backbone(directory: Path, backbone: Backbone) -> None:
    """Write the checkpoint into an existing directory."""
    (name,) = (name for name, kind in BACKBONES.items() if type(backbone) is kind.build)
    with atomic_file(directory / _WEIGHTS_FILE) as temporary:
        state = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
        # Not `save_file`: its errors are its own, and a full disk is told by the system's.
        temporary.write_bytes(save(state))
    write_json(directory / _CONFIG_FILE, {"architecture": name, "config": asdict(backbone.config)})


def load_backbone(directory: Path) -> Backbone:
    """The backbone of a checkpoint, in evaluation mode, on the CPU; InputError where it cannot be read."""
    directory = Path(directory)
    try:
        description = json.loads((directory / _CONFIG_FILE).read_text())
        kind = _kind(description["architecture"])
        backbone = kind.build(kind.config(**description["config"]))
        backbone.load_state_dict(load_file(directory / _WEIGHTS_FILE))
    except FileNotFoundError as error:
        raise InputError(f"{directory} is no backbone checkpoint: {error.filename} is missing") from None
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the backbone in {directory} cannot be loaded: {error}") from error
    return backbone.eval()


def _kind(architecture: str) -> BackboneKind:
    if architecture not in BACKBONES:
        raise InputError(f"unknown backbone architecture {architecture!r}; known: {', '.join(BACKBONES)}")
    return BACKBONES[architecture]
