"""OTAD: the head on the integrated feature, Algorithm 2."""

from typing import Any, Self

from torch import Tensor

from otad_ray.cip import Solution
from otad_ray.defenses.base import MemoryDefense
from otad_ray.defenses.parts import DefenseParts, SavedParts
from otad_ray.memory import IntegrationConfig, NeighborMemory, integrate_neighbors
from otad_ray.models import Backbone, MetricNet
from otad_ray.stages import stage


class OTAD(MemoryDefense):
    """Logits of the feature that the convex integration problem over the K nearest training points gives.

    With a transformer as the backbone this is OTAD-T, whose neighbors a metric net may find. For a fixed neighbor set
    the feature is max(L, |l|)-Lipschitz in the point ("theory" cross term). Differentiable with the dual solver.
    """

    kind = "otad"

    def __init__(
        self,
        backbone: Backbone,
        memory: NeighborMemory,
        config: IntegrationConfig | None = None,
        metric: MetricNet | None = None,
    ) -> None:
        super().__init__(backbone, memory, metric)
        self.config = config or IntegrationConfig()
        memory.check_neighbors(self.config.num_neighbors, leave_one_out=False)

    @classmethod
    def from_parts(cls, parts: DefenseParts) -> Self:
        return cls(parts.backbone, parts.memory, parts.integration, parts.metric)

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        return cls.from_parts(saved)

    def integrate(self, inputs: Tensor) -> tuple[Tensor, Solution]:
        """Positions of the neighbors (B, K) in the memory, and the solution, of inputs (B, *shape)."""
        keys, points = self.locate(inputs)
        return integrate_neighbors(self.memory, keys, points, self.config)

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, Solution]:
        """Logits (B, C), integrated features (B, D), and the solution."""
        _, solution = self.integrate(inputs)
        with stage("model"):
            return self.backbone.head(solution.feature), solution.feature, solution

    def settings(self) -> dict[str, Any]:
        return {"config": self.config}
