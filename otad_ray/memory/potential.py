"""The potential over all points of a memory: its settings, the rows of its graph, and its pieces."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from otad_ray.cip import Pieces, make_pieces, measure_edges, solve_least_squares
from otad_ray.errors import InputError
from otad_ray.memory.columns import make_column
from otad_ray.memory.neighbor_memory import NeighborMemory

# Rows that are moved at a time.
BLOCK_ROWS = 8192
_STATUS = "solved"


@dataclass(frozen=True, kw_only=True)
class PotentialConfig:
    """How the potential over all training points is fitted, and how smooth it is.

    Attributes:
        smoothness: L of the potential over all points; its feature is L-Lipschitz everywhere.
        share: beta, the part of its displacement by which a feature is moved, x + beta (z - x), above 0; 1 for a
            regression.
        graph_neighbors: nearest points that each point's potential is compared with.
        random_pairs: random points that it is compared with too, so that the whole is connected.
        seed: of the random points, and of the clusters' first centers.
        pieces: affine pieces that the potential is compressed to, each the mean of a cluster of training points of one
            class; by default one piece for each training point.
    """

    smoothness: float = 3.0
    share: float = 0.6
    graph_neighbors: int = 10
    random_pairs: int = 10
    seed: int = 0
    pieces: int | None = None

    def __post_init__(self) -> None:
        for name in ("smoothness", "share"):
            if not 0 < getattr(self, name) < torch.inf:
                raise InputError(f"need potential.{name} > 0, got {getattr(self, name)}")
        for name, least in (("graph_neighbors", 1), ("random_pairs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"need potential.{name} >= {least}, got {getattr(self, name)}")
        if self.pieces is not None and self.pieces < 1:
            raise InputError(f"need potential.pieces >= 1, got {self.pieces}; leave it out for all training points")

    @property
    def graph(self) -> dict[str, Any]:
        """What the potentials depend on, beside the memory; L and beta follow later."""
        return {"neighbors": self.graph_neighbors, "random_pairs": self.random_pairs, "seed": self.seed}


def graph_schema() -> pa.Schema:
    """Return the columns of the graph: each row's edges, with the potential's change and the squared length of each."""
    return pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("others", pa.list_(pa.int64())),
            pa.field("differences", pa.list_(pa.float64())),
            pa.field("squares", pa.list_(pa.float64())),
            pa.field("status", pa.string()),
        ]
    )


@torch.no_grad()
def measure_graph_rows(memory: NeighborMemory, positions: np.ndarray, config: PotentialConfig) -> pa.Table:
    """Measure the edges from the memory's rows at `positions` (n,) to their neighbors and to random rows.

    Returns:
        A row for each position; others are positions in the memory, the nearest ones first. A random row may be the row
        itself: such an edge has no length, and no change.
    """
    rows = torch.from_numpy(positions)
    near, _ = memory.search(memory.keys[rows], config.graph_neighbors, exclude_ids=memory.ids[rows])
    # By the row's position, so that a shard's rows do not depend on the shard.
    random = [
        np.random.default_rng([config.seed, row]).integers(len(memory), size=config.random_pairs)
        for row in positions.tolist()
    ]
    others = torch.cat([near.cpu(), torch.from_numpy(np.stack(random))], 1)
    ends = torch.stack([rows.unsqueeze(1).expand_as(others), others], 2).flatten(0, 1)
    project = None if memory.point_space is None else memory.point_space.project
    differences, squares = measure_edges(memory.points, memory.features, ends.to(memory.points.device), project)
    columns: dict[str, Tensor | list[str]] = {
        "id": memory.ids[rows],
        "others": others,
        "differences": differences.view_as(others),
        "squares": squares.view_as(others),
        "status": [_STATUS] * len(rows),
    }
    schema = graph_schema()
    return pa.table([make_column(columns[field.name], field.type) for field in schema], schema=schema)


@dataclass(frozen=True)
class FittedPotentials:
    """Potentials of all rows, and how well the graph's edges fit.

    Attributes:
        potentials: u (N,), float64, of mean zero.
        near_residual: Root mean square of `u_i - u_j - d_ij` over the edges to neighbors.
        far_residual: The same over the edges to random rows; NaN if there are none.
    """

    potentials: Tensor
    near_residual: float
    far_residual: float


def fit_graph(graph: pa.Table, config: PotentialConfig) -> FittedPotentials:
    """Fit potentials to the edges of all rows of a memory, in the memory's order, by weighted least squares."""
    count = len(graph)
    columns = [graph[name].combine_chunks().flatten().to_numpy() for name in ("others", "differences", "squares")]
    others, differences, squares = (torch.from_numpy(column.copy()) for column in columns)
    own = torch.arange(count).repeat_interleave(len(others) // max(1, count))
    between = own != others
    ends = torch.stack([own, others], 1)
    potentials = solve_least_squares(count, ends[between], differences[between], squares[between])
    residuals = (potentials[own] - potentials[others] - differences).view(count, -1)
    near, far = residuals[:, : config.graph_neighbors], residuals[:, config.graph_neighbors :]
    return FittedPotentials(potentials, float(near.square().mean().sqrt()), float(far.square().mean().sqrt()))


def move_pieces(memory: NeighborMemory, potentials: Tensor, config: PotentialConfig) -> Pieces:
    """Return the pieces of the potential whose gradient moves each point by the share beta of its displacement.

    The features are `x_i + beta (z_i - x_i)` and the potentials `|x_i|^2 / 2 + beta (u_i - |x_i|^2 / 2)`.

    Args:
        memory: The points x and features z.
        potentials: u (N,), float64, of the features as they are.
        config: L and beta.

    Raises:
        InputError: For potentials of another memory.
    """
    # At no time more than the result is held.
    features = memory.features if config.share == 1 else torch.empty_like(memory.features)
    offsets, start = [], 0
    for points, moved, values in move_blocks(memory, potentials, config):
        rows = slice(start, start + len(points))
        if config.share != 1:
            features[rows] = moved
        offsets.append(make_pieces(points, moved, values, config.smoothness).offsets)
        start = rows.stop
    return Pieces(features, torch.cat(offsets))


def move_blocks(
    memory: NeighborMemory, potentials: Tensor, config: PotentialConfig
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield points (n, D), moved features (n, D) and moved potentials (n,) of all rows, a block at a time.

    Raises:
        InputError: For potentials of another memory.
    """
    if potentials.shape != (len(memory),):
        raise InputError(
            f"{memory.directory} has {len(memory)} rows, got {tuple(potentials.shape)} potentials; fit them to it"
        )
    arrays = (memory.points, memory.features, potentials.to(memory.features.device))
    for kept, full, values in zip(*(array.split(BLOCK_ROWS) for array in arrays), strict=True):
        points = lift_points(memory, kept)
        halves = points.double().square().sum(1) / 2
        yield points, torch.lerp(points, full, config.share), halves + config.share * (values - halves)


def lift_points(memory: NeighborMemory, points: Tensor) -> Tensor:
    """Return points (n, D) in the space of the features, of points (n, d) as the memory keeps them."""
    return points if memory.point_space is None else memory.point_space.points(points)


def check_regression_share(share: float) -> None:
    """Raise InputError unless a regression's features are moved whole: its outputs would shift with them.

    A class is read off the direction in which a feature was moved, and survives a part of the way.
    """
    if share != 1:
        raise InputError(
            f"potential.share is {share:g}, which would shift the outputs of a regression; give --potential.share 1"
        )
