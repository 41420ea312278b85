"""The net alone, without a defense: what every defense is compared with."""

from pathlib import Path

from torch import Tensor

from otad_ray.defenses.base import BACKBONE_FOLDER, Defense, SavedNetwork, save_defense
from otad_ray.models import Backbone, save_backbone
from otad_ray.stages import stage


class Undefended(Defense):
    """Logits of the backbone itself."""

    kind = "undefended"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, None]:
        """Logits (B, C) and the net's features (B, D); nothing is solved."""
        with stage("model"):
            features = self.backbone.features(self.backbone.embed(inputs))
            return self.backbone.head(features), features, None

    def save(self, directory: str | Path) -> None:
        """Write `defense.json` and the backbone."""
        save_defense(Path(directory), self.kind, {BACKBONE_FOLDER: SavedNetwork(self.backbone, save_backbone)}, {})
