"""What defenses share: a backbone, a memory built with it, and how they are saved."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from otad_ray.artifacts import atomic_directory, to_jsonable, write_json
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, save_backbone

DESCRIPTION = "defense.json"
BACKBONE_FOLDER = "backbone"


class Defense(nn.Module, ABC):
    """A map from inputs (B, *shape), in the data set's bounds, to logits (B, C)."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor: ...


class MemoryDefense(Defense):
    """A defense that reads the features of an input's neighbors in a memory.

    Raises InputError where the memory was built with another backbone: its features would mean nothing to the head.
    """

    kind: ClassVar[str]

    def __init__(self, backbone: Backbone, memory: NeighborMemory) -> None:
        super().__init__()
        check_backbone(memory, backbone)
        self.backbone = backbone
        self.memory = memory

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `load_defense` gives back to the constructor beside backbone and memory, of JSON types."""

    def save(self, directory: str | Path) -> None:
        """Write `defense.json` and the backbone; the memory is named by its path relative to `directory`.

        Move the storage root as a whole, and the path stays right.
        """
        directory = Path(directory).absolute()
        if directory.exists():
            raise InputError(f"{directory} exists; a defense is never overwritten: delete it or give another directory")
        with atomic_directory(directory) as temporary:
            (temporary / BACKBONE_FOLDER).mkdir()
            save_backbone(temporary / BACKBONE_FOLDER, self.backbone)
            description = {
                "kind": self.kind,
                "backbone": BACKBONE_FOLDER,
                "memory": os.path.relpath(self.memory.directory, directory),
                "settings": to_jsonable(self.settings()),
            }
            write_json(temporary / DESCRIPTION, description)


def check_backbone(memory: NeighborMemory, backbone: Backbone) -> None:
    """InputError unless the memory's features are this backbone's."""
    recorded, found = memory.manifest.get("backbone"), backbone.fingerprint()
    if recorded != found:
        raise InputError(
            f"memory {memory.directory} was built with backbone {str(recorded)[:12]}, this one is {found[:12]}; "
            "build a memory for it with: python jobs/build_memory.py"
        )
