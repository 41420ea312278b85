"""The nearest training sample: the classical defense whose certificate needs no network."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from otad_ray.defenses.base import Defense, save_defense
from otad_ray.defenses.parts import SavedParts
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.stages import stage

# Training samples whose distances to a batch are held at a time.
_BLOCK_ROWS = 8192


class NearestNeighbor(Defense):
    """The class of the training sample that is nearest in l2, of several the first by position.

    The logit of a class is minus the distance to its nearest training sample, up to a term that all classes share: the
    distance to the nearest of all. The predicted class has the logit 0 and every other class a smaller one.
    """

    kind = "nearest_neighbor"

    def __init__(self, memory: NeighborMemory) -> None:
        """Hold the training samples.

        Args:
            memory: its keys are the samples, flattened; its features are their classes, one-hot (N, C).

        Raises:
            InputError: If the features are not the one-hot classes of the labels.
        """
        super().__init__()
        _check_classes(memory)
        self.memory = memory

    @property
    def num_classes(self) -> int:
        """C."""
        return self.memory.features.shape[1]

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        return cls(saved.memory)

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the classes (B,) int64 of the samples nearest to inputs (B, *shape), on the memory's device."""
        return self.memory.labels[self._search(inputs)]

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, None, None]:
        """Return logits (B, C); there is no feature to compare, and nothing is solved."""
        nearest = self._search(inputs)
        predicted = self.memory.labels[nearest]
        points = inputs.flatten(1).to(self.memory.keys)
        with stage("search"), torch.no_grad():
            positions, present = self._nearest_by_class(points)
            # Products in float32 may have taken another sample for the nearest.
            positions.scatter_(1, predicted.unsqueeze(1), nearest.unsqueeze(1))
        distances = _distances(points, self.memory.keys[positions])
        gaps = distances - distances.gather(1, predicted.unsqueeze(1))
        # A class without a training sample is as far away as the farthest class.
        gaps = torch.where(present, gaps, gaps.amax(1, keepdim=True).detach())
        # Of classes at the same distance only one is predicted. The bound is the least normal number in float32.
        others = gaps.clamp_min(torch.finfo(torch.float32).tiny)
        others = others.scatter(1, predicted.unsqueeze(1), 0.0)
        return -others.to(inputs), None, None

    def identity(self) -> dict[str, Any]:
        """Return the kind, and the fingerprint of the memory."""
        return {"kind": self.kind, "memory": self.memory.fingerprint}

    def save(self, directory: str | Path) -> None:
        """Write `defense.json`; the memory is named by its path relative to `directory`.

        Move the storage root as a whole, and the path stays right.
        """
        directory = Path(directory).absolute()
        memory = os.path.relpath(self.memory.directory, directory)
        save_defense(directory, self.kind, {}, {"memory": memory, "settings": {}})

    def _search(self, inputs: Tensor) -> Tensor:
        """Return the positions (B,) of the nearest training samples."""
        return self.memory.search(inputs.flatten(1), 1)[0][:, 0]

    @cached_property
    def _squares(self) -> Tensor:
        """Squared norms (N,) of the training samples."""
        return torch.cat([block.square().sum(1) for block in self.memory.keys.split(_BLOCK_ROWS)])

    def _nearest_by_class(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions (B, C) of each class's nearest sample, up to rounding, and whether there is one (B, C)."""
        least = points.new_full((len(points), self.num_classes), torch.inf)
        positions = torch.zeros(least.shape, dtype=torch.int64, device=points.device)
        columns = (tensor.split(_BLOCK_ROWS) for tensor in (self.memory.keys, self._squares, self.memory.labels))
        for number, (keys, squares, labels) in enumerate(zip(*columns, strict=True)):
            # Less |x|^2, which does not change the order.
            squared = torch.addmm(squares, points, keys.T, alpha=-2.0)
            for label in labels.unique().tolist():
                members = (labels == label).nonzero().squeeze(1)
                low, place = squared[:, members].min(1)
                nearer = low < least[:, label]
                least[:, label] = torch.where(nearer, low, least[:, label])
                found = number * _BLOCK_ROWS + members[place]
                positions[:, label] = torch.where(nearer, found, positions[:, label])
        return positions, torch.isfinite(least)


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """Return distances (B, C) float64 of points (B, D) to others (B, C, D); where one is 0, so is its gradient."""
    squared = (others.double() - points.double().unsqueeze(1)).square().sum(2)
    return squared.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


def _check_classes(memory: NeighborMemory) -> None:
    """Raise InputError unless the features of a memory are the one-hot classes of its labels."""
    features, labels = memory.features, memory.labels
    is_one_hot = bool((features.count_nonzero(1) == 1).all()) and bool((features.sum(1) == 1).all())
    if not (is_one_hot and torch.equal(features.argmax(1), labels)):
        raise InputError(
            f"memory {memory.directory} holds no training samples with their one-hot classes as features; "
            "ensure_input_memory builds one that does"
        )
