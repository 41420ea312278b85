"""Radii around inputs whose predictions are known, from the geometry of a memory.

Training points enter by the distances of keys, and the `w_j` move with points: radii in the space of the points are
expressed in that of the keys, and the result in that of the inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.certification.bisectors import Bisectors, distance_rounding, least_radius
from otad_ray.certification.certificate import Certificate
from otad_ray.certification.memory_table import BELOW, MemoryTable
from otad_ray.certification.motion import Geometry

# Nearest training points of the predicted class that bisectors are formed with; farther ones hardly raise a radius.
_NUM_NEARER = 200

CONSTANT_NEIGHBORHOOD = "constant_neighborhood"


@dataclass(frozen=True, kw_only=True)
class PredictedRows:
    """Inputs of norms (B,) as keys (B, E) and points (B, d), float32, and what is predicted for them.

    neighbors (B, K): positions of their neighbors. predicted (B,): int64.
    limit (B,): how far each point may move, its neighbors kept, before its prediction may change; float64.
    solved (B,): whether the prediction is that of a solved problem; the others have no certificate.
    """

    norms: Tensor
    keys: Tensor
    points: Tensor
    neighbors: Tensor
    predicted: Tensor
    limit: Tensor
    solved: Tensor


def neighborhood_certificate(rows: PredictedRows, table: MemoryTable, geometry: Geometry, *, hull: str) -> Certificate:
    """The larger of the hull certificate, whose method is called `hull`, and the constant-neighborhood one."""
    distances, methods = [], []
    limits = geometry.in_key_units(rows.limit, rows.norms).tolist()
    for row, bounds in enumerate(table.distance_bounds(rows.keys)):
        # Of the keys.
        distance, method = 0.0, ""
        if bool(rows.solved[row]):
            key, neighbors = rows.keys[row], rows.neighbors[row]
            entry = _entry_bounds(key, table.keys[neighbors], bounds)
            reach = table.reach(rows.points[row], int(rows.predicted[row]))
            reach = geometry.in_key_units(reach, float(rows.norms[row])).mul_(BELOW).float()
            members = table.members[int(rows.predicted[row])]
            distance, method = _hull_distance(key, len(neighbors), members, entry, reach, bounds, table), hull
            # With l = 0 a hull radius above 0 has right neighbors only, and no point enters sooner than the first one.
            if limits[row] > distance and (distance == 0 or table.strong_convexity != 0):
                constant = min(limits[row], _constant_distance(key, neighbors, entry, table))
                distance, method = max((distance, method), (constant, CONSTANT_NEIGHBORHOOD), key=lambda item: item[0])
        distances.append(distance)
        methods.append(method)
    below = 1 - 8 * distance_rounding(table.keys.shape[1])
    radius = geometry.keys.radius(below * rows.limit.new_tensor(distances), rows.norms)
    radius = torch.minimum(radius, geometry.points.radius(below * table.largest_radius(rows.points), rows.norms))
    return Certificate(radius, [method if size > 0 else "" for size, method in zip(radius, methods, strict=True)])


def _entry_bounds(key: Tensor, near: Tensor, distances: Tensor) -> Tensor:
    """`(d_j - d_(K)) / 2` (N,) float32, which no `T_j` is less than, from the nearest keys `near` (K, E).

    The K nearest alone give each `t_ij >= (d_j^2 - d_i^2) / (2 (d_i + d_j))`.
    """
    farthest = float((near.double() - key.double()).norm(dim=1).max()) * (1 + 1e-6)
    return (distances - farthest).clamp_min_(0).mul_(0.5 * BELOW)


def _hull_distance(
    key: Tensor,
    num_neighbors: int,
    members: Tensor,
    entry: Tensor,
    reach: Tensor,
    distances: Tensor,
    table: MemoryTable,
) -> float:
    """`min_j max(T_j, r_j)` over all training points, with r_j = reach (N,)."""
    nearest = distances[members].topk(min(_NUM_NEARER, len(members)), largest=False).indices
    bisectors = Bisectors(key, table.keys.index_select(0, members[nearest]), num_neighbors)
    return least_radius(bisectors, table.keys, torch.maximum(entry, reach))


def _constant_distance(key: Tensor, neighbors: Tensor, entry: Tensor, table: MemoryTable) -> float:
    """`T_set`: the least `T_j` of points outside of the neighbors, with those as the only rivals."""
    return least_radius(
        Bisectors(key, table.keys.index_select(0, neighbors), len(neighbors)),
        table.keys,
        entry.index_fill(0, neighbors, torch.inf),
    )
