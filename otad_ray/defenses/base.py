"""What defenses share: a backbone, a memory built with it, and how they are saved."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from otad_ray.artifacts import atomic_directory, refuse_occupied, to_jsonable, write_json
from otad_ray.cip import Solution
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, save_backbone

DESCRIPTION = "defense.json"
# Features computed on another device or in another batch differ by rounding, those of another net altogether.
_FEATURE_TOLERANCE = 1e-3
_CHECKED_ROWS = 16
_BLOCK_ROWS = 8192
BACKBONE_FOLDER = "backbone"


class Defense(nn.Module, ABC):
    """A map from inputs (B, *shape), in the data set's bounds, to logits (B, C)."""

    kind: ClassVar[str]
    backbone: Backbone

    @abstractmethod
    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, Solution | None]:
        """Logits (B, C), the features (B, D) that the head was given, and how they were solved for, if they were."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_details(inputs)[0]

    @abstractmethod
    def save(self, directory: str | Path) -> None:
        """Write what `load_defense` reads; InputError where `directory` holds something."""


class MemoryDefense(Defense):
    """A defense that reads the features of an input's neighbors in a memory.

    Raises InputError where the memory was built with another backbone: its features would mean nothing to the head.
    """

    def __init__(self, backbone: Backbone, memory: NeighborMemory) -> None:
        super().__init__()
        check_backbone(memory, backbone)
        self.backbone = backbone
        self.memory = memory

    @cached_property
    def training_classes(self) -> Tensor:
        """The class that the head gives to the feature of each training point (N,), int64; labels may differ."""
        with torch.no_grad():
            batches = self.memory.features.split(_BLOCK_ROWS)
            return torch.cat([self.backbone.head(batch).argmax(1) for batch in batches])

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `load_defense` gives back to the constructor beside backbone and memory, of JSON types."""

    def save(self, directory: str | Path) -> None:
        """Write `defense.json` and the backbone; the memory is named by its path relative to `directory`.

        Move the storage root as a whole, and the path stays right.
        """
        directory = Path(directory).absolute()
        memory = os.path.relpath(self.memory.directory, directory)
        save_defense(directory, self.kind, self.backbone, {"memory": memory, "settings": to_jsonable(self.settings())})


def save_defense(directory: Path, kind: str, backbone: Backbone, description: Mapping[str, Any]) -> None:
    """Write `defense.json` and the backbone into a new directory."""
    refuse_occupied(directory)
    with atomic_directory(directory) as temporary:
        (temporary / BACKBONE_FOLDER).mkdir()
        save_backbone(temporary / BACKBONE_FOLDER, backbone)
        write_json(temporary / DESCRIPTION, {"kind": kind, "backbone": BACKBONE_FOLDER, **description})


def check_backbone(memory: NeighborMemory, backbone: Backbone) -> None:
    """InputError unless the memory's features are this backbone's: by what it recorded, else by its first rows."""
    recorded, found = memory.manifest.get("backbone"), backbone.fingerprint()
    if recorded == found or (recorded is None and _first_features_agree(memory, backbone)):
        return
    built_with = "another backbone" if recorded is None else f"backbone {recorded[:12]}"
    raise InputError(
        f"memory {memory.directory} was built with {built_with}, this one is {found[:12]}; "
        "build a memory for it with: python jobs/build_memory.py"
    )


@torch.no_grad()
def _first_features_agree(memory: NeighborMemory, backbone: Backbone) -> bool:
    parameter = next(backbone.parameters())
    points = memory.points[:_CHECKED_ROWS].to(parameter)
    stored = memory.features[:_CHECKED_ROWS].to(parameter)
    if points.shape[1] != backbone.dimension:
        return False
    difference = (backbone.features(points) - stored).norm()
    return bool(difference <= _FEATURE_TOLERANCE * stored.norm())
