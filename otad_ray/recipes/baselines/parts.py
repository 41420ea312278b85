"""The parts that baselines are made of, each made when it is first asked for."""

from dataclasses import dataclass
from typing import Any

from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.baselines.input_memory import ensure_input_memory
from otad_ray.recipes.baselines.recipe import ensure_baseline
from otad_ray.recipes.workspace import Workspace


@dataclass(frozen=True)
class PresetBaselineParts:
    """The parts of a baseline on a preset.

    Attributes:
        workspace: the preset.
        name: the baseline's name in the catalog.
    """

    workspace: Workspace
    name: str

    @property
    def network(self) -> Any:
        return ensure_baseline(self.workspace, self.name).network

    @property
    def net(self) -> Backbone:
        return ensure_backbone(self.workspace).network

    @property
    def input_memory(self) -> NeighborMemory:
        return ensure_input_memory(self.workspace)
