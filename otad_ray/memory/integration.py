"""Neighbors, potentials and feature of a batch of queries: the step that defenses and label jobs share."""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

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
        neighbors: K, the training points that a feature is integrated from.
        regularity: (l, L) and its relaxation.
        solver: dual (exact), mosek, or a conic solver of cvxpy such as clarabel or scs (a reference, slow).
        cross_term: theory, the paper's program (16), or released, the authors' code.
    """

    neighbors: int = 10
    regularity: Regularity = field(default_factory=Regularity)
    solver: str = "dual"
    cross_term: CrossTerm = "theory"

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise InputError(f"need neighbors >= 1, got {self.neighbors}")
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

    keys (B, E) are searched, points (B, D) integrated; exclude_ids (B,) as in `NeighborMemory.search`.
    Differentiable in points for the neighbors found.
    """
    if points.dim() != 2 or points.shape[1] != memory.points.shape[1]:
        raise InputError(f"the memory's points have dimension {memory.points.shape[1]}, got {tuple(points.shape)}")
    index, _ = memory.search(keys, config.neighbors, exclude_ids)
    block = max(1, _BLOCK_BYTES // (8 * config.neighbors * points.shape[1]))
    with stage("solve"):
        parts = [
            integrate(
                rows,
                memory.points[near].to(rows),
                memory.features[near].to(rows),
                config.regularity,
                solver=config.solver,
                cross_term=config.cross_term,
            )
            for rows, near in zip(points.split(block), index.split(block), strict=True)
        ]
        return index, _concatenated(parts)


def _concatenated(parts: list[Solution]) -> Solution:
    if len(parts) == 1:
        return parts[0]
    names = [item.name for item in fields(Solution) if item.name != "solver"]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Solution(**joined, solver=parts[0].solver)
