"""What defenses are made of: a preset's parts, or those of a saved defense, each opened when it is first asked for."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from otad_ray.cip import Pieces, Regularity
from otad_ray.defenses.base import CIP_NET_FOLDER, CLUSTERS_ARRAY, METRIC_FOLDER, PIECE_ARRAYS, PIECES_FOLDER
from otad_ray.memory import IntegrationConfig, NeighborMemory, PotentialConfig
from otad_ray.memory.array_files import map_array
from otad_ray.models import Backbone, CipNet, MetricNet, load_backbone, load_cip_net, load_metric_net
from otad_ray.models.checkpoints import Family

Network = TypeVar("Network", bound=nn.Module)


class DefenseParts(Protocol):
    """Parts to make a defense of. They are lazy: what a defense does not use need not exist."""

    @property
    def backbone(self) -> Backbone:
        """The trained network, in evaluation mode."""
        ...

    @property
    def memory(self) -> NeighborMemory:
        """The memory that was built with the backbone, and with the metric net if there is one."""
        ...

    @property
    def metric(self) -> MetricNet | None:
        """The net that neighbors are searched by; None if that is done by the points."""
        ...

    @property
    def integration(self) -> IntegrationConfig:
        """How many neighbors are taken, and how their features are integrated."""
        ...

    @property
    def cip_net(self) -> CipNet:
        """The net that approximates the solver."""
        ...

    @property
    def potential(self) -> PotentialConfig:
        """How smooth the potential over all training points is, and how far it moves them."""
        ...

    @property
    def pieces(self) -> Pieces:
        """The pieces of that potential, one for each training point or for each cluster of them."""
        ...

    @property
    def clusters(self) -> Tensor | None:
        """The cluster (N,) of each training point; None if each has its own piece."""
        ...


class SavedParts:
    """The parts of a saved defense.

    Attributes:
        directory: Where it is saved.
        settings: What the defense's `settings` returned when it was saved, of JSON types.
    """

    def __init__(
        self, directory: Path, description: Mapping[str, Any], *, search: str, device: str | torch.device
    ) -> None:
        self.directory = directory
        self.settings: Mapping[str, Any] = description.get("settings", {})
        self._description = description
        self._search = search
        self._device = device

    @cached_property
    def backbone(self) -> Backbone:
        return load_backbone(self.directory / self._description["backbone"]).to(self._device)

    @cached_property
    def memory(self) -> NeighborMemory:
        path = (self.directory / self._description["memory"]).resolve()
        return NeighborMemory.load(path, search=self._search, device=self._device)

    @cached_property
    def metric(self) -> MetricNet | None:
        if METRIC_FOLDER not in self._description:
            return None
        return load_metric_net(self.directory / METRIC_FOLDER).to(self._device)

    @cached_property
    def integration(self) -> IntegrationConfig:
        config = dict(self.settings["config"])
        num_neighbors, regularity = config.pop("neighbors"), Regularity(**config.pop("regularity"))
        return IntegrationConfig(num_neighbors=num_neighbors, regularity=regularity, **config)

    @cached_property
    def cip_net(self) -> CipNet:
        return load_cip_net(self.directory / CIP_NET_FOLDER).to(self.memory.points.device)

    @cached_property
    def potential(self) -> PotentialConfig:
        return PotentialConfig(
            smoothness=float(self.settings["smoothness"]),
            share=float(self.settings["share"]),
            pieces=self.settings.get("pieces"),
        )

    @cached_property
    def pieces(self) -> Pieces:
        count, dimension = self.potential.pieces or len(self.memory), self.memory.features.shape[1]
        arrays = zip(PIECE_ARRAYS, ((count, dimension), (count,)), strict=True)
        return Pieces(*(self._map_piece_array(name, shape) for name, shape in arrays))

    @cached_property
    def clusters(self) -> Tensor | None:
        return None if self.potential.pieces is None else self._map_piece_array(CLUSTERS_ARRAY, (len(self.memory),))

    def _map_piece_array(self, name: str, shape: tuple[int, ...]) -> Tensor:
        folder = self.directory / self._description[PIECES_FOLDER]
        return map_array(folder / f"{name}.npy", shape).to(self.memory.features.device)

    def read_network(self, folder: str, family: Family[Network]) -> Network:
        """Return the network that is saved in a folder of the defense."""
        return family.load(self.directory / folder).to(self._device)
