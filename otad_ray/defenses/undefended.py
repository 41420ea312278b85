"""The net alone, without a defense: what every defense is compared with."""

from pathlib import Path
from typing import Any, Self

from torch import Tensor

from otad_ray.defenses.base import BACKBONE_FOLDER, Defense, SavedNetwork, save_defense
from otad_ray.defenses.parts import DefenseParts, SavedParts
from otad_ray.models import Backbone, save_backbone
from otad_ray.stages import stage


class Undefended(Defense):
    """Logits of the backbone itself."""

    kind = "undefended"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @classmethod
    def from_parts(cls, parts: DefenseParts) -> Self:
        return cls(parts.backbone)

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        return cls(saved.backbone)

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, None]:
        """Logits (B, C) and the net's features (B, D); nothing is solved."""
        with stage("model"):
            features = self.backbone.features(self.backbone.embed(inputs))
            return self.backbone.head(features), features, None

    def save(self, directory: str | Path) -> None:
        """Write `defense.json` and the backbone."""
        save_defense(Path(directory), self.kind, {BACKBONE_FOLDER: SavedNetwork(self.backbone, save_backbone)}, {})

    def identity(self) -> dict[str, Any]:
        """Return the kind, and the fingerprint of the net."""
        return {"kind": self.kind, "backbone": self.backbone.fingerprint()}
