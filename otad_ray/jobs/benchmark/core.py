"""The benchmark's parts on single operations: convex integration, and the building of a memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from otad_ray.benchmarks import Measurement, measure_cip, measure_streaming
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace

_CIP_ROWS = 1024
# Points of the transformer in the authors' code: 65 tokens of 384. A batch of them is 2 GB.
_LARGE_DIMENSION = 24960
_LARGE_ROWS = 256

# Goals, as ratios of which more is better.
_CIP_GOAL, _LARGE_CIP_GOAL = 500.0, 2000.0


def measure_integration(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure convex integration of rows of the memory, as they are and isometrically embedded in more dimensions."""
    memory = ensure_memory(workspace)
    integration = config.preset.integration
    rows = torch.arange(min(_CIP_ROWS, len(memory)))
    near, _ = memory.search(memory.keys[rows], integration.num_neighbors, memory.ids[rows])
    query, points, features = memory.points[rows], memory.points[near], memory.features[near]
    if memory.point_space is not None:
        # The references know no smaller space.
        query, points = memory.point_space.points(query), memory.point_space.points(points)
    yield from measure_cip(query, points, features, integration.regularity, goal=_CIP_GOAL)
    embedding = _draw_isometry(query.shape[1], _LARGE_DIMENSION)
    query, points, features = (tensor[:_LARGE_ROWS] @ embedding for tensor in (query, points, features))
    yield from measure_cip(query, points, features, integration.regularity, goal=_LARGE_CIP_GOAL)


def measure_streamed_memory(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure the building of a memory from generated rows, whatever the preset."""
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".benchmark-") as directory:
        yield measure_streaming(Path(directory) / "memory")


def _draw_isometry(dimension: int, larger: int) -> Tensor:
    """Return random orthonormal rows (dimension, larger)."""
    directions = torch.randn(larger, dimension, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(directions).Q.T.contiguous()
