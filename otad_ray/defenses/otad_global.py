"""OTAD over all training points: one convex and smooth potential, so that no neighbor set changes under an input."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from otad_ray.artifacts import atomic_file
from otad_ray.cip import GlobalSolution, Pieces, integrate_globally
from otad_ray.cip.global_program import check_smoothness
from otad_ray.defenses.base import CLUSTERS_ARRAY, PIECE_ARRAYS, PIECES_FOLDER, MemoryDefense, SavedNetwork
from otad_ray.defenses.parts import DefenseParts, SavedParts
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.memory.compression import average_rows
from otad_ray.memory.potential import check_regression_share, lift_points
from otad_ray.models import Backbone, MetricNet
from otad_ray.stages import stage

# What pieces may differ by from the memory's features moved by the share: float32 rounding.
_TOLERANCE = 1e-4
_CHECKED_ROWS = 16
_BLOCK_ROWS = 8192


class OTADGlobal(MemoryDefense):
    """Logits of the gradient of one convex, L-smooth potential over all training points.

    The feature is L-Lipschitz in the point everywhere, for any offsets of the pieces, and its gradient is exact.
    """

    kind = "otad_global"

    def __init__(
        self,
        backbone: Backbone,
        memory: NeighborMemory,
        pieces: Pieces,
        *,
        smoothness: float,
        share: float,
        metric: MetricNet | None = None,
        clusters: Tensor | None = None,
    ) -> None:
        """Hold the parts.

        Args:
            backbone: The network whose features the memory keeps.
            memory: The training points.
            pieces: The potential's, one for each training point, as `move_pieces` makes them, or one for each cluster,
                as `average_pieces` makes them.
            smoothness: L.
            share: beta, by which the pieces' features are moved.
            metric: The net that the memory was built with, if there is one; nothing is searched by it here.
            clusters: The cluster (N,) of each training point, if pieces are means over these.

        Raises:
            InputError: For an L that is not above 0, for pieces whose features are not the memory's, and for a share
                other than 1 of a regression.
        """
        super().__init__(backbone, memory, metric)
        check_smoothness(smoothness)
        if backbone.num_outputs == 1:
            check_regression_share(share)
        _check_pieces(memory, pieces, share, clusters)
        self.pieces, self.smoothness, self.share, self.clusters = pieces, smoothness, share, clusters

    @classmethod
    def from_parts(cls, parts: DefenseParts) -> Self:
        settings = {"smoothness": parts.potential.smoothness, "share": parts.potential.share}
        return cls(parts.backbone, parts.memory, parts.pieces, metric=parts.metric, clusters=parts.clusters, **settings)

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        return cls.from_parts(saved)

    @cached_property
    def piece_classes(self) -> Tensor:
        """The class that the head gives to the feature of each piece (N,), int64."""
        parameter = next(self.backbone.parameters())
        with torch.no_grad():
            blocks = self.pieces.features.detach().split(_BLOCK_ROWS)
            return torch.cat([self.backbone.head(block.to(parameter)).argmax(1) for block in blocks])

    def find_points(self, inputs: Tensor) -> Tensor:
        """Return the points (B, D) of inputs (B, *shape) in the space of the features, differentiable in them.

        Points that the memory keeps as coordinates are lifted in float64, so that the lifting adds no rounding.
        """
        _, points = self.locate(inputs)
        device = self.pieces.features.device
        return (
            points.to(device)
            if self.memory.point_space is None
            else lift_points(self.memory, points.to(device).double())
        )

    def integrate(self, inputs: Tensor) -> GlobalSolution:
        """Return the solution of inputs (B, *shape), differentiable in them."""
        points = self.find_points(inputs)
        with stage("solve"):
            return integrate_globally(points, self.pieces, self.smoothness)

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor, GlobalSolution]:
        """Logits (B, C), features (B, D), and the solution."""
        solution = self.integrate(inputs)
        feature = solution.feature.to(inputs)
        with stage("model"):
            return self.backbone.head(feature), feature, solution

    def settings(self) -> dict[str, Any]:
        compressed = {} if self.clusters is None else {"pieces": len(self.pieces)}
        return {"smoothness": self.smoothness, "share": self.share} | compressed

    def identity(self) -> dict[str, Any]:
        """Return the kind, the settings, and the fingerprints of the parts.

        Memory, share and clusters say what the features are.
        """
        arrays = {"offsets": self.pieces.offsets, "clusters": self.clusters}
        return super().identity() | {name: _digest(array) for name, array in arrays.items() if array is not None}

    def networks(self) -> dict[str, SavedNetwork]:
        """Return what is saved with it, by folder: the networks, and the pieces as arrays that are mapped."""
        return super().networks() | {PIECES_FOLDER: SavedNetwork(self.pieces, self._save_pieces)}

    def _save_pieces(self, directory: Path, pieces: Pieces) -> None:
        arrays = {name: getattr(pieces, name) for name in PIECE_ARRAYS}
        if self.clusters is not None:
            arrays[CLUSTERS_ARRAY] = self.clusters
        for name, array in arrays.items():
            with atomic_file(directory / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, array.detach().cpu().numpy())


def _digest(array: Tensor) -> str:
    return hashlib.sha256(array.detach().cpu().numpy().tobytes()).hexdigest()


def _check_pieces(memory: NeighborMemory, pieces: Pieces, share: float, clusters: Tensor | None) -> None:
    """Raise InputError unless the pieces' features are the memory's moved by `share`, or means of these over clusters.

    The first pieces are compared.
    """
    count = len(memory) if clusters is None else int(clusters.amax()) + 1
    fits = pieces.features.shape == (count, memory.features.shape[1])
    if clusters is not None:
        fits &= clusters.shape == (len(memory),)
    if not fits or not _first_pieces_agree(memory, pieces, share, clusters):
        raise InputError(
            f"these {len(pieces)} pieces of dimension {pieces.dimension} are not those of {memory.directory}, "
            f"{tuple(memory.features.shape)}, with share {share}; make them of that memory with "
            f"{'move_pieces' if clusters is None else 'average_pieces, of the same clusters'}"
        )


def _first_pieces_agree(memory: NeighborMemory, pieces: Pieces, share: float, clusters: Tensor | None) -> bool:
    numbers = torch.arange(len(memory)) if clusters is None else clusters.cpu()
    rows = (numbers < _CHECKED_ROWS).nonzero().squeeze(1).to(memory.points.device)
    moved = torch.lerp(lift_points(memory, memory.points[rows]), memory.features[rows], share)
    expected = average_rows(moved, numbers[numbers < _CHECKED_ROWS])
    found = pieces.features.detach()[: len(expected)].to(expected)
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())
