"""Neighbors, potentials and feature of a batch of queries: the step that defenses and label jobs share."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from tyro.conf import arg

from otad_ray.artifacts import JSON_NAME
from otad_ray.cip import CROSS_TERMS, CrossTerm, Regularity, Solution, check_solver_name, integrate
from otad_ray.errors import InputError
from otad_ray.memory.neighbor_memory import NeighborMemory
from otad_ray.stages import stage

# Gathered neighbors (points and features) of one block of rows take at most about this much.
_BLOCK_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class IntegrationConfig:
    """How a feature is integrated.

    Attributes:
        num_neighbors: K, the training points that a feature is integrated from.
        regularity: (l, L) and its relaxation.
        solver: dual (exact), mosek, a conic solver of cvxpy such as clarabel or scs (a reference, slow), or
            path/to/file.py:MySolver, your own.
        cross_term: theory, the paper's program (16), or released, the authors' code.
    """

    # Manifests and the command line say `neighbors`.
    num_neighbors: Annotated[int, arg(name="neighbors")] = field(default=10, metadata={JSON_NAME: "neighbors"})
    regularity: Regularity = field(default_factory=Regularity)
    solver: str = "dual"
    cross_term: CrossTerm = "theory"

    @property
    def problem(self) -> str:
        """What is solved, by whichever solver and for however many neighbors, for people and for comparison."""
        return f"cross_term {self.cross_term}, {self.regularity}"

    def __post_init__(self) -> None:
        if self.num_neighbors < 1:
            raise InputError(f"need neighbors >= 1, got {self.num_neighbors}")
        if self.cross_term not in CROSS_TERMS:
            raise InputError(f"unknown cross_term {self.cross_term!r}; known: {', '.join(CROSS_TERMS)}")
        check_solver_name(self.solver)


def integrate_neighbors(
    memory: NeighborMemory,
    keys: Tensor,
    points: Tensor,
    config: IntegrationConfig,
    *,
    exclude_ids: Tensor | None = None,
) -> tuple[Tensor, Solution]:
    """Positions of the neighbors (B, K) and the integrated solution of queries.

    keys (B, E) are searched, points (B, d), as the memory's are, integrated; exclude_ids (B,) as in
    `NeighborMemory.search`. Differentiable in points for the neighbors found.
    """
    index = search_neighbors(memory, keys, points, config.num_neighbors, exclude_ids=exclude_ids)
    with stage("solve"):
        parts = [
            integrate(
                neighborhood.query,
                neighborhood.points,
                neighborhood.features,
                config.regularity,
                solver=config.solver,
                cross_term=config.cross_term,
                isometry=memory.point_space,
            )
            for neighborhood in neighborhoods(memory, points, index)
        ]
        return index, _concatenated(parts)


def search_neighbors(
    memory: NeighborMemory, keys: Tensor, points: Tensor, num_neighbors: int, *, exclude_ids: Tensor | None = None
) -> Tensor:
    """Positions (B, K) of the neighbors of keys (B, E); InputError for points (B, d) unlike the memory's."""
    if points.dim() != 2 or points.shape[1] != memory.points.shape[1]:
        raise InputError(f"the memory's points have dimension {memory.points.shape[1]}, got {tuple(points.shape)}")
    index, _ = memory.search(keys, num_neighbors, exclude_ids)
    return index


class Neighborhood(NamedTuple):
    """query (n, d), its neighbors' points (n, K, d) and features (n, K, D), in the query's dtype and on its device."""

    query: Tensor
    points: Tensor
    features: Tensor


def neighborhoods(memory: NeighborMemory, points: Tensor, index: Tensor) -> Iterator[Neighborhood]:
    """Points (B, d) with their neighbors at positions index (B, K), as many at a time as take a bounded memory."""
    row_bytes = 4 * index.shape[1] * (memory.points.shape[1] + memory.features.shape[1])
    block = max(1, _BLOCK_BYTES // row_bytes)
    for rows, near in zip(points.split(block), index.split(block), strict=True):
        yield Neighborhood(rows, memory.points[near].to(rows), memory.features[near].to(rows))


def _concatenated(parts: list[Solution]) -> Solution:
    if len(parts) == 1:
        return parts[0]
    names = [item.name for item in fields(Solution) if item.name != "solver"]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Solution(**joined, solver=parts[0].solver)
