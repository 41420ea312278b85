"""Certificates of defenses that read an input's neighbors in a memory.

Both rest on `T_j`, within which training point `j` surely is none of the K neighbors (`Bisectors`).

- Hull: the feature is a convex combination of the neighbors' `w_j = z_j + l (x - x_j)` (for KNN, l = 0), and the class
  regions of an affine head are convex. So the prediction stays within `min_j max(T_j, r_j)`, where `w_j` stays in
  the predicted class within `r_j`. It holds for rows that are infeasible or failed as well: their feature is a
  convex combination all the same.
- Constant neighborhood: within `T_set` the neighbors stay the same, and then the feature is max(L, |l|)-Lipschitz; for
  KNN it is constant. For OTAD this presumes that problem (16) is solved within `T_set` to the solver's tolerance, as
  it was at `x`, and that the same neighbors are feasible after the same relaxations in whatever order they come.

Neither asks for potentials of the features: a relaxation changes the potentials alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from otad_ray.certification.certificate import Certificate
from otad_ray.certification.margins import AffineHead
from otad_ray.certification.memory_table import MemoryTable, memory_table
from otad_ray.certification.neighborhoods import PredictedRows, neighborhood_certificate
from otad_ray.certification.solver_error import solver_error
from otad_ray.cip import Status
from otad_ray.defenses import KNN, OTAD, MemoryDefense
from otad_ray.errors import InputError

# Inputs predicted at a time.
_BLOCK_ROWS = 256


def certify_otad(defense: OTAD, inputs: Tensor) -> Certificate:
    """Certificate of inputs (B, *shape) float32; 0 where the problem failed at the input itself.

    Raises InputError where the feature is not known to stay in the hull, or in range of the input.
    """
    config = defense.config
    if config.cross_term != "theory":
        raise InputError(
            f"no certificate for cross_term {config.cross_term!r}: its feature is not the gradient of an interpolating "
            "potential and may change faster than L allows; there is one for cross_term 'theory'"
        )
    if config.solver != "dual":
        raise InputError(
            f"no certificate for solver {config.solver!r}: its weights leave the simplex by as much as its tolerance; "
            "there is one for solver 'dual'"
        )
    table = _table(defense, config.neighbors, config.regularity.strong_convexity)
    rows = (_otad_rows(defense, block, table) for block in inputs.split(_BLOCK_ROWS))
    return _joined(defense, (neighborhood_certificate(block, table, hull="hull") for block in rows))


def certify_knn(defense: KNN, inputs: Tensor) -> Certificate:
    """Certificate of inputs (B, *shape) float32."""
    table = _table(defense, defense.neighbors, 0.0)
    rows = (_knn_rows(defense, block, table) for block in inputs.split(_BLOCK_ROWS))
    return _joined(defense, (neighborhood_certificate(block, table, hull="knn") for block in rows))


# By the exact type: a subclass may predict otherwise, and then its certificate is another.
CERTIFIERS: Mapping[type, Callable[[Any, Tensor], Certificate]] = {OTAD: certify_otad, KNN: certify_knn}


def _table(defense: MemoryDefense, neighbors: int, strong_convexity: float) -> MemoryTable:
    """What is known of the memory's points; InputError where backbone or memory allow no proof."""
    backbone, memory = defense.backbone, defense.memory
    name = type(backbone).__name__
    if memory.keys is not memory.points:
        raise InputError(
            f"no certificate: {memory.directory} is searched by keys of their own (a metric net's), and nothing proven "
            "bounds how far they move with the input; there is one for memories that are searched by their points"
        )
    if backbone.embedding_bound() is None:
        raise InputError(f"no certificate: {name} gives no embedding_bound(), how far points move with the input")
    if backbone.num_outputs == 1:
        raise InputError("no certificate: the backbone has one output (regression), and no class to keep")
    affine = backbone.affine_head()
    if affine is None:
        raise InputError(f"no certificate: {name} gives no affine_head(), and other heads' regions may not be convex")
    if affine[0].dtype != torch.float32:
        raise InputError(f"no certificate: the head computes in {affine[0].dtype}, roundings are known for float32")
    weight, bias = (tensor.to(memory.points.device) for tensor in affine)
    return memory_table(memory, AffineHead(weight, bias, neighbors), strong_convexity)


def _otad_rows(defense: OTAD, inputs: Tensor, table: MemoryTable) -> PredictedRows:
    regularity = defense.config.regularity
    points = defense.backbone.embed(inputs).to(table.points)
    neighbors, solution = defense.integrate(inputs)
    logits = defense.backbone.head(solution.feature)
    predicted = logits.argmax(1).to(points.device)
    reach = _feature_reach(table, points, solution.feature.to(points), predicted)
    slope = max(regularity.smoothness, abs(regularity.strong_convexity))
    error = solver_error(defense.memory, points, neighbors, solution.potentials, regularity, within=reach / slope)
    return PredictedRows(
        points=points,
        neighbors=neighbors,
        predicted=predicted,
        # The solver errs at the input and where it moves to.
        limit=(reach - 2 * error).clamp_min(0) / slope,
        solved=(solution.status != Status.FAILED) & (solution.status != Status.INTERRUPTED),
    )


def _knn_rows(defense: KNN, inputs: Tensor, table: MemoryTable) -> PredictedRows:
    points = defense.backbone.embed(inputs).to(table.points)
    neighbors, _ = defense.memory.search(points, defense.neighbors)
    predicted = defense(inputs).argmax(1).to(points.device)
    feature = defense.memory.features[neighbors].double().mean(1)
    reach = _feature_reach(table, points, feature, predicted)
    return PredictedRows(
        points=points,
        neighbors=neighbors,
        predicted=predicted,
        limit=torch.where(reach > 0, torch.inf, reach),
        solved=torch.ones_like(predicted, dtype=torch.bool),
    )


def _feature_reach(table: MemoryTable, points: Tensor, feature: Tensor, predicted: Tensor) -> Tensor:
    """How far (B,) float64 features (B, D) may move before the prediction may change."""
    return table.head.feature_radius(
        table.head.logits(feature), table.head.rounding(table.center_norm(points)), predicted
    )


def _joined(defense: MemoryDefense, certificates: Iterable[Certificate]) -> Certificate:
    """One certificate, of inputs: distances between points are at most `sigma` times those between inputs.

    Exactly so for flattened inputs; an embedding that rounds would need an allowance of its own.
    """
    sigma = defense.backbone.embedding_bound()
    assert sigma is not None
    parts = list(certificates)
    return Certificate(
        torch.cat([part.radius for part in parts]) / sigma, [method for part in parts for method in part.method]
    )
