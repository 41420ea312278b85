"""Certificates of defenses that read an input's neighbors in a memory.

Both rest on `T_j`, within which the key of training point `j` surely is none of the K nearest (`Bisectors`). While an
input moves by r, its key moves by at most `Lam r` and its point by at most `sigma r`; keys are points without a metric
net. What rounding adds is in `Motion`.

- Hull: the feature is a convex combination of the neighbors' `w_j = z_j + l (x - x_j)` (for KNN, l = 0), and the class
  regions of an affine head are convex, as are those of a normalization and a linear map without biases. So the
  prediction stays within `min_j max(T_j / Lam, r_j / sigma)`, where `w_j` stays in the predicted class within `r_j`. It
  holds for rows that are infeasible or failed as well: their feature is a convex combination all the same.
- Constant neighborhood: within `T_set / Lam` the neighbors stay the same, and then margins change no faster than by
  `AffineHead.feature_slopes`; for KNN the feature is constant. For OTAD this presumes that problem (16) is solved
  within `T_set` to the solver's tolerance, as it was at `x`, and that the same neighbors are feasible after the same
  relaxations in whatever order they come. How fast CIP-net's weights change is not known.

Neither asks for potentials of the features: a relaxation changes the potentials alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from otad_ray.certification.certificate import Certificate
from otad_ray.certification.global_potential import certify_pieces
from otad_ray.certification.margins import AffineHead
from otad_ray.certification.memory_table import MemoryTable, memory_table
from otad_ray.certification.motion import Geometry, Motion, isometry_defect
from otad_ray.certification.nearest_neighbor import certify_nearest_neighbor
from otad_ray.certification.neighborhoods import PredictedRows, neighborhood_certificate
from otad_ray.certification.solver_error import solver_error
from otad_ray.cip import Status, center_displacement
from otad_ray.defenses import KNN, OTAD, OTADNN, MemoryDefense, OTADGlobal
from otad_ray.defenses.baselines.nearest_neighbor import NearestNeighbor
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
    low = config.regularity.strong_convexity
    return _certified(defense, inputs, _otad_rows, num_neighbors=config.num_neighbors, displacement=low, hull="hull")


def certify_otad_nn(defense: OTADNN, inputs: Tensor) -> Certificate:
    """Certificate of inputs (B, *shape) float32; InputError for a CIP-net whose feature may leave the hull."""
    if defense.cip_net.config.head != "simplex":
        raise InputError(
            f"no certificate for a CIP-net with head {defense.cip_net.config.head!r}: its feature may be any vector; "
            "there is one for head 'simplex', whose feature is a convex combination"
        )
    config = defense.config
    moved = center_displacement(config.regularity, config.cross_term)
    return _certified(
        defense, inputs, _otad_nn_rows, num_neighbors=config.num_neighbors, displacement=moved, hull="hull"
    )


def certify_knn(defense: KNN, inputs: Tensor) -> Certificate:
    """Certificate of inputs (B, *shape) float32."""
    return _certified(defense, inputs, _knn_rows, num_neighbors=defense.num_neighbors, displacement=0.0, hull="knn")


def certify_otad_global(defense: OTADGlobal, inputs: Tensor) -> Certificate:
    """Certificate of inputs (B, *shape) float32; neighbors, and so a metric net, have no part in it."""
    head, motion = _affine_head(defense, num_neighbors=1), _point_motion(defense)
    # Points that are kept as coordinates are lifted into the features' space.
    stretch = 1 + isometry_defect(defense.memory.point_space)
    motion = Motion(bound=motion.bound * stretch, rounding=motion.rounding * stretch)
    return certify_pieces(defense, inputs, head, motion)


# By the exact type: a subclass may predict otherwise, and then its certificate is another.
CERTIFIERS: Mapping[type, Callable[[Any, Tensor], Certificate]] = {
    OTAD: certify_otad,
    OTADNN: certify_otad_nn,
    KNN: certify_knn,
    OTADGlobal: certify_otad_global,
    NearestNeighbor: certify_nearest_neighbor,
}

# Certificates that prove more, or less, than in an earlier version: records of those are not taken for theirs.
_REVISIONS: Mapping[type, int] = {OTADGlobal: 2}


def certificate_revision(defense: object) -> int:
    """Return the revision of what certifies a defense, from 1 on."""
    return _REVISIONS.get(type(defense), 1)


def _certified(
    defense: MemoryDefense,
    inputs: Tensor,
    predict: Callable[[Any, Tensor, MemoryTable], PredictedRows],
    *,
    num_neighbors: int,
    displacement: float,
    hull: str,
) -> Certificate:
    """num_neighbors: K. displacement: l of the `w_j`. hull: what the hull certificate is called."""
    geometry = _geometry(defense)
    table = _table(defense, num_neighbors, displacement)
    blocks = (predict(defense, block, table) for block in inputs.split(_BLOCK_ROWS))
    parts = [neighborhood_certificate(rows, table, geometry, hull=hull) for rows in blocks]
    return Certificate(torch.cat([part.radius for part in parts]), [method for part in parts for method in part.method])


def _point_motion(defense: MemoryDefense) -> Motion:
    """How points move with the input; InputError where nothing proven bounds it."""
    backbone = defense.backbone
    sigma = backbone.embedding_bound()
    if sigma is None:
        raise InputError(
            f"no certificate: {type(backbone).__name__} gives no embedding_bound(), how far points move with the input"
        )
    return Motion(bound=sigma, rounding=backbone.embedding_rounding())


def _geometry(defense: MemoryDefense) -> Geometry:
    """How keys and points move with the input; InputError where nothing proven bounds it."""
    metric, points = defense.metric, _point_motion(defense)
    if metric is None:
        return Geometry(keys=points, points=points)
    lipschitz = metric.lipschitz_bound()
    if lipschitz is None:
        raise InputError(
            f"no certificate: {type(metric).__name__} gives no lipschitz_bound(), and nothing proven bounds how far "
            "its keys move with the input; there is one for nets with a bound, and for memories searched by points"
        )
    if metric.training:
        raise InputError(
            f"no certificate: {type(metric).__name__} is in training mode, where its rounding has no bound; call eval()"
        )
    return Geometry(keys=Motion(bound=lipschitz, rounding=metric.rounding()), points=points)


def _table(defense: MemoryDefense, num_neighbors: int, displacement: float) -> MemoryTable:
    """What is known of the memory's points; InputError where the head allows no proof."""
    return memory_table(defense.memory, _affine_head(defense, num_neighbors), displacement)


def _affine_head(defense: MemoryDefense, num_neighbors: int) -> AffineHead:
    """The head's margins on means of so many features; InputError where the head allows no proof."""
    backbone, memory = defense.backbone, defense.memory
    name = type(backbone).__name__
    if backbone.num_outputs == 1:
        raise InputError("no certificate: the backbone has one output (regression), and no class to keep")
    margins = backbone.linear_margins()
    if margins is None:
        raise InputError(
            f"no certificate: {name} gives no linear_margins(), and the class regions of other heads may not be convex"
        )
    dtypes = {parameter.dtype for parameter in backbone.parameters()}
    if dtypes != {torch.float32}:
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise InputError(f"no certificate: {name} computes in {found}, roundings are known for float32")
    return AffineHead(margins, num_neighbors, memory.point_space, device=memory.points.device)


def _otad_rows(defense: OTAD, inputs: Tensor, table: MemoryTable) -> PredictedRows:
    head, regularity = table.head, defense.config.regularity
    neighbors, solution = defense.integrate(inputs)
    keys, points = _located(defense, inputs)
    predicted = defense.backbone.head(solution.feature).argmax(1).to(points.device)
    logits, rounding = head.logits(solution.feature.to(points)), head.rounding(table.center_norm(points))
    slopes = head.feature_slopes(regularity)
    exact = head.radius(logits, rounding, predicted, slopes)
    error = solver_error(defense.memory, points, neighbors, solution.potentials, regularity, within=exact)
    return PredictedRows(
        norms=_norms(inputs, points),
        keys=keys,
        points=points,
        neighbors=neighbors,
        predicted=predicted,
        # The solver errs at the input and where it moves to.
        limit=head.radius(logits, rounding, predicted, slopes, feature_error=2 * error),
        solved=(solution.status != Status.FAILED) & (solution.status != Status.INTERRUPTED),
    )


def _otad_nn_rows(defense: OTADNN, inputs: Tensor, _: MemoryTable) -> PredictedRows:
    return _hull_rows(defense, inputs, defense.forward_details(inputs)[0], defense.config.num_neighbors)


def _knn_rows(defense: KNN, inputs: Tensor, table: MemoryTable) -> PredictedRows:
    logits, feature, _ = defense.forward_details(inputs)
    rows, head = _hull_rows(defense, inputs, logits, defense.num_neighbors), table.head
    entries, rounding = head.logits(feature.to(rows.points)), head.rounding(table.center_norm(rows.points))
    # The mean of the same neighbors does not move.
    return replace(rows, limit=head.radius(entries, rounding, rows.predicted, head.center_slopes(0.0)))


def _hull_rows(defense: MemoryDefense, inputs: Tensor, logits: Tensor, num_neighbors: int) -> PredictedRows:
    """Rows of which is known that their feature lies in the hull, and no more."""
    keys, points = _located(defense, inputs)
    norms = _norms(inputs, points)
    return PredictedRows(
        norms=norms,
        keys=keys,
        points=points,
        neighbors=defense.memory.search(keys, num_neighbors)[0],
        predicted=logits.argmax(1).to(points.device),
        limit=torch.zeros_like(norms),
        solved=torch.ones_like(norms, dtype=torch.bool),
    )


def _located(defense: MemoryDefense, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (B, E) and points (B, d) on the memory's device."""
    keys, points = defense.locate(inputs)
    return keys.to(defense.memory.keys), points.to(defense.memory.points)


def _norms(inputs: Tensor, points: Tensor) -> Tensor:
    return inputs.flatten(1).double().norm(dim=1).to(points.device)
