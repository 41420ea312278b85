"""Radii around inputs whose predictions are known, from the geometry of a memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.certification.bisectors import Bisectors, distance_rounding, least_radius
from otad_ray.certification.certificate import Certificate
from otad_ray.certification.memory_table import BELOW, MemoryTable

# Nearest training points of the predicted class that bisectors are formed with; farther ones hardly raise a radius.
_NUM_NEARER = 200

CONSTANT_NEIGHBORHOOD = "constant_neighborhood"


@dataclass(frozen=True, kw_only=True)
class PredictedRows:
    """Inputs as points (B, D) float32, the positions (B, K) of their neighbors, and their predictions (B,) int64.

    limit (B,): how far each may move, its neighbors kept, before its prediction may change; float64.
    solved (B,): whether the prediction is that of a solved problem; the others have no certificate.
    """

    points: Tensor
    neighbors: Tensor
    predicted: Tensor
    limit: Tensor
    solved: Tensor


def neighborhood_certificate(rows: PredictedRows, table: MemoryTable, *, hull: str) -> Certificate:
    """The larger of the hull certificate, whose method is called `hull`, and the constant-neighborhood one.

    Radii are distances between points.
    """
    radii, methods = [], []
    caps = table.largest_radius(rows.points).tolist()
    for row, bounds in enumerate(table.distance_bounds(rows.points)):
        radius, method = 0.0, ""
        if bool(rows.solved[row]):
            query, neighbors = rows.points[row], rows.neighbors[row]
            entry = _entry_bounds(query, table.points[neighbors], bounds)
            radius, method = _hull_radius(query, len(neighbors), int(rows.predicted[row]), entry, bounds, table), hull
            limit = float(rows.limit[row])
            # With l = 0 a hull radius above 0 has right neighbors only, and no point enters sooner than the first one.
            if limit > radius and (radius == 0 or table.strong_convexity != 0):
                constant = min(limit, _constant_radius(query, neighbors, entry, table))
                radius, method = max((radius, method), (constant, CONSTANT_NEIGHBORHOOD), key=lambda item: item[0])
        radii.append(min(radius, caps[row]))
        methods.append(method if radius > 0 else "")
    below = 1 - 8 * distance_rounding(table.points.shape[1])
    return Certificate(below * rows.limit.new_tensor(radii), methods)


def _entry_bounds(query: Tensor, near: Tensor, distances: Tensor) -> Tensor:
    """`(d_j - d_(K)) / 2` (N,) float32, which no `T_j` is less than, from the nearest points `near` (K, D).

    The K nearest alone give each `t_ij >= (d_j^2 - d_i^2) / (2 (d_i + d_j))`.
    """
    farthest = float((near.double() - query.double()).norm(dim=1).max()) * (1 + 1e-6)
    return (distances - farthest).clamp_min_(0).mul_(0.5 * BELOW)


def _hull_radius(
    query: Tensor, num_neighbors: int, predicted: int, entry: Tensor, distances: Tensor, table: MemoryTable
) -> float:
    """`min_j max(T_j, r_j)` over all training points."""
    members = table.members[predicted]
    nearest = distances[members].topk(min(_NUM_NEARER, len(members)), largest=False).indices
    bisectors = Bisectors(query, table.points.index_select(0, members[nearest]), num_neighbors)
    return least_radius(bisectors, table.points, table.raised_to_reach(entry, query, predicted))


def _constant_radius(query: Tensor, neighbors: Tensor, entry: Tensor, table: MemoryTable) -> float:
    """`T_set`: the least `T_j` of points outside of the neighbors, with those as the only rivals."""
    return least_radius(
        Bisectors(query, table.points.index_select(0, neighbors), len(neighbors)),
        table.points,
        entry.index_fill(0, neighbors, torch.inf),
    )
