"""A small memory of given points."""

from pathlib import Path
from typing import Any

import torch

from otad_ray.memory import NeighborMemory


def build_memory(directory: Path, points: torch.Tensor, *, batch: int = 64, **changes: Any) -> NeighborMemory:
    """Build a memory of `points` (N, D), with twice the points as features, three classes, and ids from 100 on.

    Args:
        directory: where the memory is written.
        points: the points, handed over in batches.
        batch: rows in a batch.
        **changes: arrays that replace or join those above: keys, points, features, labels, ids.
    """
    arrays = {
        "points": points,
        "features": 2 * points,
        "labels": torch.arange(len(points)) % 3,
        "ids": 100 + torch.arange(len(points)),
        **changes,
    }
    batches = {name: array.split(batch) for name, array in arrays.items()}
    return NeighborMemory.build(directory, batches.pop("keys", None), **batches, provenance={"backbone": "b"})
