"""Is a backbone an optimal transport map? The assumption behind OTAD, measured."""

import numpy as np
import torch
from torch import Tensor

from otad_ray.cip import Potentials, Regularity, brenier_potentials
from otad_ray.errors import InputError
from otad_ray.memory import nearest_others
from otad_ray.models import Backbone

# Points measured; the assignment problem takes their number to the third power.
_SAMPLE = 1000
_SEED = 0
_BATCH, _BATCH_BYTES = 256, 256 << 20
# Of the local Lipschitz constant: the l2 norm of the perturbation, the paper's Fig. 2, and steps of the power method.
_RADIUS = 0.3
_ASCENT_STEPS = 10


def transport_diagnostics(
    backbone: Backbone, coordinates: Tensor, *, num_neighbors: int, regularity: Regularity
) -> dict[str, float]:
    """Measures of the map `x -> R(x)` on a seeded sample of points, given by their coordinates (N, d), by name.

    transport_energy: mean path energy (13).
    transport_cost: mean `|x - R(x)|^2`, and assignment_cost: the least such mean over all ways of assigning the
        sample's features to its points; equal if and only if the map is an optimal assignment of the sample.
    share_satisfied: share of neighborhoods, each the `neighbors` nearest other points of a point, whose features are
        gradients of an L-smooth l-strongly convex function, (15) at `regularity` unrelaxed; and
        relaxations_of_the_rest: mean number of relaxations that the others need (max_relaxations if that is too few).
    lipschitz_mean, lipschitz_max: of `|R(x + d) - R(x)| / |d|` at |d| = 0.3 in the units of the points, each point's
        direction, among those in which points differ, found by the power method: lower bounds on the local Lipschitz
        constant, up to rounding. Of a transformer they are of a tenth of the sample.

    Raises InputError for too few points to have so many neighbors.
    """
    if len(coordinates) <= num_neighbors:
        raise InputError(f"neighbors must be at most {len(coordinates) - 1}, the other points, got {num_neighbors}")
    order = torch.randperm(len(coordinates), generator=torch.Generator().manual_seed(_SEED))
    rows = order[:_SAMPLE].sort().values
    located = coordinates[rows].to(next(backbone.parameters()).device)
    sample, features, energy = _batched(backbone, located)
    # A transformer takes a hundred times as long.
    followed = slice(0, _SAMPLE if backbone.point_space is None else _SAMPLE // 10)
    quotients = _local_lipschitz(backbone, located[followed], features[followed])
    satisfied, relaxations = _convexity(backbone, coordinates, rows, num_neighbors, regularity)
    return {
        "transport_energy": float(energy.double().mean()),
        "transport_cost": float((sample - features).double().square().sum(1).mean()),
        "assignment_cost": _assignment_cost(sample, features),
        "share_satisfied": satisfied,
        "relaxations_of_the_rest": relaxations,
        "lipschitz_mean": float(quotients.mean()),
        "lipschitz_max": float(quotients.max()),
    }


def _batch(backbone: Backbone, points_a_row: int = 1) -> int:
    """Rows whose points and features are held at a time."""
    return max(1, min(_BATCH, _BATCH_BYTES // (8 * points_a_row * backbone.dimension)))


@torch.no_grad()
def _batched(backbone: Backbone, coordinates: Tensor) -> list[Tensor]:
    """Points (n, D), features (n, D) and energies (n,) of coordinates (n, d)."""
    results = []
    for batch in coordinates.split(_batch(backbone)):
        points = backbone.points_of(batch)
        results.append((points, *backbone.transport(points)))
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


def _assignment_cost(points: Tensor, features: Tensor) -> float:
    """Least mean squared distance over one-to-one assignments, by POT's network simplex."""
    import ot

    source, target = (cloud.double().cpu().numpy() for cloud in (points, features))
    weights = np.full(len(source), 1 / len(source))
    return float(ot.emd2(weights, weights, ot.dist(source, target), numItermax=10_000_000))


def _convexity(
    backbone: Backbone, coordinates: Tensor, rows: Tensor, num_neighbors: int, regularity: Regularity
) -> tuple[float, float]:
    near = nearest_others(coordinates, rows, num_neighbors)
    found: list[Potentials] = []
    for batch in near.split(_batch(backbone, num_neighbors)):
        neighborhood = backbone.points_of(coordinates[batch].to(next(backbone.parameters()).device))
        with torch.no_grad():
            features = backbone.features(neighborhood.flatten(0, 1)).view_as(neighborhood)
            found.append(brenier_potentials(neighborhood, features, regularity))
    relaxations = torch.cat([potentials.relaxations for potentials in found])
    satisfied = torch.cat([potentials.feasible for potentials in found]) & (relaxations == 0)
    rest = relaxations[~satisfied].double()
    return float(satisfied.double().mean()), float(rest.mean()) if len(rest) else 0.0


def _local_lipschitz(backbone: Backbone, coordinates: Tensor, features: Tensor) -> Tensor:
    """Difference quotients (n,) in a direction that the power method on `|R(x + d) - R(x)|^2` finds."""
    generator = torch.Generator().manual_seed(_SEED)
    quotients = []
    size = _batch(backbone)
    for batch, images in zip(coordinates.split(size), features.split(size), strict=True):
        step = _of_length(torch.randn(batch.shape, generator=generator).to(batch), _RADIUS)
        for _ in range(_ASCENT_STEPS):
            step = step.detach().requires_grad_()
            moved = (backbone.features(backbone.points_of(batch + step)) - images).square().sum()
            gradient = torch.autograd.grad(moved, step)[0]
            # Where the map is constant there is no better direction.
            step = torch.where(gradient.norm(dim=1, keepdim=True) > 0, _of_length(gradient, _RADIUS), step)
        with torch.no_grad():
            # What was added, rounded as it was: coordinates may be large.
            added = (batch + step) - batch
            moved = (backbone.features(backbone.points_of(batch + added)) - images).norm(dim=1)
            quotients.append(moved / added.norm(dim=1).clamp_min(_tiny(added)))
    return torch.cat(quotients).double()


def _of_length(vectors: Tensor, length: float) -> Tensor:
    return vectors * (length / vectors.norm(dim=1, keepdim=True).clamp_min(_tiny(vectors)))


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
