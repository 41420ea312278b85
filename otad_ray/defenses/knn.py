"""K nearest neighbors in feature space, the comparison of the paper's Table XII."""

from typing import Any, Self

from torch import Tensor

from otad_ray.defenses.base import MemoryDefense
from otad_ray.defenses.parts import DefenseParts, SavedParts
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, MetricNet
from otad_ray.stages import stage


class KNN(MemoryDefense):
    """Logits of the mean feature of the K nearest training points; piecewise constant in the input."""

    kind = "knn"

    def __init__(
        self, backbone: Backbone, memory: NeighborMemory, num_neighbors: int = 10, metric: MetricNet | None = None
    ) -> None:
        super().__init__(backbone, memory, metric)
        self.num_neighbors = num_neighbors
        memory.check_neighbors(num_neighbors, leave_one_out=False)

    @classmethod
    def from_parts(cls, parts: DefenseParts) -> Self:
        return cls(parts.backbone, parts.memory, parts.integration.num_neighbors, parts.metric)

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        return cls(saved.backbone, saved.memory, saved.settings["neighbors"], saved.metric)

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, None]:
        """Logits (B, C) and mean features (B, D); nothing is solved."""
        keys, points = self.locate(inputs)
        index, _ = self.memory.search(keys, self.num_neighbors)
        # A piecewise constant map has a gradient, and it is zero: an attack may ask for it.
        features = self.memory.features[index].to(points).mean(1) + 0 * points.mean(1, keepdim=True)
        with stage("model"):
            return self.backbone.head(features), features, None

    def settings(self) -> dict[str, Any]:
        return {"neighbors": self.num_neighbors}
