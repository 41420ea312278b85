"""Certificate of the nearest training sample's class.

The prediction at `x'` is the class of the training sample nearest to `x'`. It changes only if some sample `x_j` of
another class becomes nearer than every sample `x_i` of the predicted class. The set of such `x'` is a polyhedron
`P_j`, the intersection over `i` of the half-spaces beyond the bisectors of `x_i` and `x_j`, and the exact robust radius
is `min_j dist(x, P_j)`: a quadratic program for each `j`. The certificate is

    min_j max_i t_ij,    t_ij = (|x - x_j|^2 - |x - x_i|^2) / (2 |x_i - x_j|),

where `t_ij` is the distance to one bisector. The distance to an intersection is at least the distance to each of the
half-spaces, so this is a lower bound of the exact radius. The two agree where one bisector is all that matters: where
the projection of `x` on the farthest bisector lies in `P_j`. The maximum over some of the `i` is a lower bound too, and
only the nearest samples of the predicted class are measured.

Inputs are flattened and not embedded: the search measures them as they are, and `Bisectors` covers its rounding.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from otad_ray.certification.bisectors import Bisectors, distance_rounding, least_radius
from otad_ray.certification.certificate import Certificate
from otad_ray.certification.key_distances import KeyDistances
from otad_ray.certification.memory_table import BELOW
from otad_ray.defenses.baselines.nearest_neighbor import NearestNeighbor
from otad_ray.memory import NeighborMemory

# Nearest training samples of the predicted class that bisectors are formed with; farther ones hardly raise a radius.
_NUM_NEARER = 200

BISECTORS = "bisectors"

_distances: WeakKeyDictionary[NeighborMemory, KeyDistances] = WeakKeyDictionary()


def certify_nearest_neighbor(defense: NearestNeighbor, inputs: Tensor) -> Certificate:
    """Return lower bounds of the robust l2 radii of inputs (B, *shape) float32, as explained above."""
    memory = defense.memory
    if memory not in _distances:
        _distances[memory] = KeyDistances(memory.keys)
    table, queries = _distances[memory], inputs.flatten(1).to(memory.keys)
    nearest, least = memory.search(queries, 1)
    predicted = memory.labels[nearest[:, 0]].tolist()
    bounds = table.lower_bounds(queries)
    rows = zip(queries, bounds, predicted, least[:, 0].tolist(), strict=True)
    found = torch.tensor([_radius(memory, *row) for row in rows], dtype=torch.float64)
    # If there is no other class, the radius would be infinite: it ends beyond all training samples.
    largest = queries.double().norm(dim=1).cpu() + table.largest_norm
    radius = torch.minimum(found, largest) * (1 - 8 * distance_rounding(queries.shape[1]))
    return Certificate(radius.to(inputs.device), [BISECTORS if size > 0 else "" for size in radius.tolist()])


def _radius(memory: NeighborMemory, query: Tensor, distances: Tensor, predicted: int, least: float) -> float:
    """Return `min_j max_i t_ij` of one input; infinite if there is no other class.

    Args:
        memory: the training samples.
        query: the input (D,).
        distances: lower bounds (N,) of the distances to the training samples.
        predicted: the class of the nearest sample.
        least: the distance to it.
    """
    is_own = memory.labels == predicted
    members = is_own.nonzero().squeeze(1)
    nearest = distances[members].topk(min(_NUM_NEARER, len(members)), largest=False).indices
    bisectors = Bisectors(query, memory.keys.index_select(0, members[nearest]), 1)
    # The nearest sample of all alone gives each j at least half the difference of the distances.
    bounds = (distances - least * (1 + 1e-6)).clamp_min(0) * (0.5 * BELOW)
    return least_radius(bisectors, memory.keys, bounds.masked_fill(is_own, torch.inf))
