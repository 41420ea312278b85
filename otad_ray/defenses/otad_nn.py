"""OTAD-T-NN: CIP-net in place of the solver (paper, Section IV.C)."""

from typing import Any, Self

import torch
from torch import Tensor

from otad_ray.defenses.base import CIP_NET_FOLDER, MemoryDefense, SavedNetwork
from otad_ray.defenses.parts import DefenseParts, SavedParts
from otad_ray.errors import InputError
from otad_ray.machine import job_command
from otad_ray.memory import IntegrationConfig, NeighborMemory, approximate_feature, neighborhoods, search_neighbors
from otad_ray.models import Backbone, CipNet, MetricNet, save_cip_net
from otad_ray.stages import stage


def check_problem(cip_net: CipNet, config: IntegrationConfig) -> None:
    """InputError for a CIP-net of another number of neighbors, or one that learned another problem's solutions."""
    if cip_net.config.num_neighbors != config.num_neighbors:
        raise InputError(
            f"this CIP-net takes {cip_net.config.num_neighbors} neighbors, got neighbors={config.num_neighbors}; "
            f"train one with: {job_command('train_cip_net')}"
        )
    if cip_net.config.problem not in (None, config.problem):
        raise InputError(
            f"this CIP-net learned the solutions of {cip_net.config.problem}, asked for are those of {config.problem}; "
            f"train one with: {job_command('train_cip_net')}"
        )


class OTADNN(MemoryDefense):
    """Logits of the feature that CIP-net approximates from the K nearest training points.

    The metric net may be another than CIP-net's labels came from (Table VI), the backbone may not.
    config: of the problem that CIP-net approximates; its solver is not used.
    Raises InputError for a CIP-net of another backbone, another number of neighbors or other dimensions.
    """

    kind = "otad_nn"

    def __init__(
        self,
        backbone: Backbone,
        memory: NeighborMemory,
        cip_net: CipNet,
        config: IntegrationConfig | None = None,
        metric: MetricNet | None = None,
    ) -> None:
        super().__init__(backbone, memory, metric)
        self.config = config or IntegrationConfig()
        cip_net.check(
            num_neighbors=self.config.num_neighbors,
            coordinates=memory.points.shape[1],
            dimension=memory.features.shape[1],
        )
        known = cip_net.config.backbone
        if known is not None and known != backbone.fingerprint():
            raise InputError(
                f"this CIP-net was trained on features of backbone {known[:12]}, this one is "
                f"{backbone.fingerprint()[:12]}; train one with: {job_command('train_cip_net')}"
            )
        check_problem(cip_net, self.config)
        memory.check_neighbors(self.config.num_neighbors, leave_one_out=False)
        self.cip_net = cip_net

    @classmethod
    def from_parts(cls, parts: DefenseParts) -> Self:
        return cls(parts.backbone, parts.memory, parts.cip_net, parts.integration, parts.metric)

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        return cls.from_parts(saved)

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, None]:
        """Logits (B, C) and approximated features (B, D); nothing is solved."""
        keys, points = self.locate(inputs)
        index = search_neighbors(self.memory, keys, points, self.config.num_neighbors)
        with stage("solve"):
            parts = [
                approximate_feature(self.cip_net, neighborhood, self.config, self.memory.point_space)
                for neighborhood in neighborhoods(self.memory, points, index)
            ]
            features = torch.cat(parts)
        with stage("model"):
            return self.backbone.head(features), features, None

    def networks(self) -> dict[str, SavedNetwork]:
        return super().networks() | {CIP_NET_FOLDER: SavedNetwork(self.cip_net, save_cip_net)}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "cip_net": self.cip_net.fingerprint()}

    def settings(self) -> dict[str, Any]:
        return {"config": self.config}
