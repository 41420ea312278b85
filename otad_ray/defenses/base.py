"""What defenses share: a backbone, a memory built with it, and how they are saved."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from otad_ray.artifacts import atomic_directory, refuse_occupied, to_jsonable, write_json
from otad_ray.cip import GlobalSolution, Pieces, Solution
from otad_ray.errors import InputError
from otad_ray.machine import job_command
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, MetricNet, save_backbone, save_metric_net
from otad_ray.stages import stage

if TYPE_CHECKING:
    from otad_ray.defenses.parts import DefenseParts, SavedParts

DESCRIPTION = "defense.json"
# Features computed on another device or in another batch differ by rounding, those of another net altogether.
_FEATURE_TOLERANCE = 1e-3
_CHECKED_ROWS = 16
_BLOCK_ROWS = 8192
BACKBONE_FOLDER = "backbone"
METRIC_FOLDER = "metric"
CIP_NET_FOLDER = "cip_net"
PIECES_FOLDER = "pieces"
# The files of that folder, fields of `Pieces`.
PIECE_ARRAYS = ("features", "offsets")
# The file beside them of pieces that are means over clusters.
CLUSTERS_ARRAY = "clusters"
# What a saved defense may hold, each named in its description.
NETWORK_FOLDERS = (BACKBONE_FOLDER, METRIC_FOLDER, CIP_NET_FOLDER, PIECES_FOLDER)


class Defense(nn.Module, ABC):
    """A map from inputs (B, *shape), in the data set's bounds, to logits (B, C).

    Attributes:
        kind: What a saved defense is recognized by; never to be changed.
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def load(cls, saved: "SavedParts") -> Self:
        """Make the defense that was saved, of its parts and with its settings."""

    @abstractmethod
    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, Solution | GlobalSolution | None]:
        """Compute the outputs, and what they came from.

        Returns:
            Logits (B, C); the features (B, D) that the head was given, or None; how these were solved for, or None.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_details(inputs)[0]

    @abstractmethod
    def save(self, directory: str | Path) -> None:
        """Write what `load_defense` reads; raise InputError if `directory` holds something."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what the outputs depend on, of JSON types and dataclasses."""


class MemoryDefense(Defense):
    """A defense that reads the features of an input's neighbors in a memory.

    A subclass sets `kind` and defines `forward_details`, `settings` and `from_parts`.
    """

    def __init__(self, backbone: Backbone, memory: NeighborMemory, metric: MetricNet | None = None) -> None:
        """Hold the parts.

        Args:
            backbone: The network whose features the memory keeps.
            memory: The training points.
            metric: The net whose outputs the memory is searched by; without one, it is searched by the points.

        Raises:
            InputError: If the memory was built with another backbone or another metric: its features would mean
                nothing to the head, or its distances nothing to the search.
        """
        super().__init__()
        check_backbone(memory, backbone)
        check_metric(memory, metric)
        self.backbone = backbone
        self.memory = memory
        self.metric = metric

    def keys(self, inputs: Tensor) -> Tensor:
        """What inputs (B, *shape) are searched by: (B, E)."""
        return self.locate(inputs)[0]

    def locate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, E) and points (B, d), as the memory keeps them, of inputs (B, *shape)."""
        with stage("model"):
            points = self.backbone.coordinates(inputs)
            return points if self.metric is None else self.metric(inputs), points

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: "DefenseParts") -> Self:
        """Make the defense of a preset's parts, with the settings that follow from the preset."""

    @cached_property
    def training_classes(self) -> Tensor:
        """The class that the head gives to the feature of each training point (N,), int64; labels may differ."""
        with torch.no_grad():
            batches = self.memory.features.split(_BLOCK_ROWS)
            return torch.cat([self.backbone.head(batch).argmax(1) for batch in batches])

    @classmethod
    def load(cls, saved: "SavedParts") -> Self:
        """Make the defense that was saved; its settings are arguments of the constructor."""
        made = cls(saved.backbone, saved.memory, metric=saved.metric, **saved.settings)
        # A setting that is not there must not become its default in silence.
        if missing := made.settings().keys() - saved.settings.keys():
            raise KeyError(f"settings: {', '.join(sorted(missing))}")
        return made

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor beside backbone, memory and metric, of JSON types or dataclasses."""

    def identity(self) -> dict[str, Any]:
        """Return the kind, the settings, and the fingerprints of the parts."""
        identity = {"kind": self.kind, "backbone": self.backbone.fingerprint(), "memory": self.memory.fingerprint}
        if self.metric is not None:
            identity["metric"] = self.metric.fingerprint()
        return identity | self.settings()

    def save(self, directory: str | Path) -> None:
        """Write `defense.json` and the networks; the memory is named by its path relative to `directory`.

        Move the storage root as a whole, and the path stays right.
        """
        directory = Path(directory).absolute()
        memory = os.path.relpath(self.memory.directory, directory)
        description = {"memory": memory, "settings": to_jsonable(self.settings())}
        save_defense(directory, self.kind, self.networks(), description)

    def networks(self) -> "dict[str, SavedNetwork]":
        """Return the networks that are saved with it, by their folder."""
        saved = {BACKBONE_FOLDER: SavedNetwork(self.backbone, save_backbone)}
        if self.metric is not None:
            saved[METRIC_FOLDER] = SavedNetwork(self.metric, save_metric_net)
        return saved


class SavedNetwork(NamedTuple):
    """A network, or what else a defense is made of, and what writes it into a directory."""

    network: nn.Module | Pieces
    save: Callable[[Path, Any], None]


def save_defense(
    directory: Path, kind: str, networks: Mapping[str, SavedNetwork], description: Mapping[str, Any]
) -> None:
    """Write `defense.json` and the networks, each in its folder, into a new directory."""
    refuse_occupied(directory)
    with atomic_directory(directory) as temporary:
        for folder, saved in networks.items():
            (temporary / folder).mkdir()
            saved.save(temporary / folder, saved.network)
        folders = {folder: folder for folder in networks}
        write_json(temporary / DESCRIPTION, {"kind": kind, **folders, **description})


def check_backbone(memory: NeighborMemory, backbone: Backbone) -> None:
    """InputError unless the memory's features are this backbone's: by what it recorded, else by its first rows."""
    recorded, found = memory.manifest.get("backbone"), backbone.fingerprint()
    if recorded == found or (recorded is None and _first_features_agree(memory, backbone)):
        return
    built_with = "another backbone" if recorded is None else f"backbone {recorded[:12]}"
    raise InputError(
        f"memory {memory.directory} was built with {built_with}, this one is {found[:12]}; "
        f"build a memory for it with: {job_command('build_memory')}"
    )


def check_metric(memory: NeighborMemory, metric: MetricNet | None) -> None:
    """InputError unless the memory's keys are this metric net's; without one, unless they are its points.

    By what the memory recorded, else by the dimension of its keys.
    """
    has_keys = memory.keys is not memory.points
    num_keys = memory.keys.shape[1]
    if metric is None:
        if has_keys:
            raise InputError(
                f"memory {memory.directory} is searched by keys of a metric net, of dimension {num_keys}; give that net"
            )
        return
    if not has_keys:
        raise InputError(
            f"memory {memory.directory} was built without a metric net; build one for it with: python "
            "jobs/build_memory.py and the net's options"
        )
    if metric.num_keys != num_keys:
        raise InputError(
            f"the metric net gives keys of dimension {metric.num_keys}, those of memory {memory.directory} are of "
            f"dimension {num_keys}; build a memory for it with: {job_command('build_memory')} and the net's options"
        )
    recorded, found = memory.manifest.get("metric"), metric.fingerprint()
    if recorded is not None and recorded != found:
        raise InputError(
            f"memory {memory.directory} was built with metric net {recorded[:12]}, this one is {found[:12]}; "
            f"build a memory for it with: {job_command('build_memory')} and the net's options"
        )


@torch.no_grad()
def _first_features_agree(memory: NeighborMemory, backbone: Backbone) -> bool:
    parameter, space = next(backbone.parameters()), backbone.point_space
    points = memory.points[:_CHECKED_ROWS].to(parameter)
    stored = memory.features[:_CHECKED_ROWS].to(parameter)
    expected = backbone.dimension if space is None else space.num_coordinates
    if points.shape[1] != expected or stored.shape[1] != backbone.dimension:
        return False
    difference = (backbone.features(backbone.points_of(points)) - stored).norm()
    return bool(difference <= _FEATURE_TOLERANCE * stored.norm())
