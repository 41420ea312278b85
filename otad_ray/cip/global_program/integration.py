"""The feature and the value of the global potential, with their exact gradients.

    v(x) = min over w of  max_i f_i(w) + (L/2) |x - w|^2,   f_i(w) = <z_i, w> + c_i,   z(x) = grad v(x)

`v` is convex and L-smooth for any pieces. With A the pieces that are active at `w(x)` and an incoming gradient g of the
feature, solve `[G_AA / L, 1; 1', 0] [q; mu] = [Z_A g; 0]` with `G = Z Z'`. Then `grad x = Z_A' q`, `grad c_i = q_i` and
`grad z_i = q_i w + s_i (g - Z_A' q / L)`. For the value the gradients are `z`, `s_i` and `s_i w`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otad_ray.cip.global_program.cutting_planes import CuttingPlanes
from otad_ray.cip.global_program.pieces import Pieces
from otad_ray.cip.status import Status
from otad_ray.errors import InputError

# Rows solved together: enough to share each block of pieces, few enough for memory.
_BLOCK_ROWS = 256
# Slack, relative to the size of the values, down to which a piece counts as active in the gradient.
_TIGHT = 1e-11
# Eigenvalues below this fraction of the largest count as zero in the gradient.
_RANK_TOLERANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class GlobalSolution:
    """Solution of the global program for B rows; all but status and index are float64.

    Attributes:
        feature: `z(x)` (B, D), in the dtype of the query.
        value: `v(x)` (B,); NaN where the row failed.
        index: Positions (B, k) of the pieces that the feature is made of.
        weights: `s` (B, k) on the simplex; the feature is `sum_i s_i z_i` in every row.
        proximal: `w(x) = x - z(x) / L` (B, D).
        gap: Bound (B,) on `max_i f_i(w) - sum_i s_i f_i(w)` over all N pieces. It bounds the error of the feature,
            `|z - z*|^2 <= L gap`; infinite where the query was not finite.
        status: `SOLVED` or `FAILED` (B,), values of `Status`, int64.
    """

    feature: Tensor
    value: Tensor
    index: Tensor
    weights: Tensor
    proximal: Tensor
    gap: Tensor
    status: Tensor


def integrate_globally(
    query: Tensor,
    pieces: Pieces,
    smoothness: float,
    *,
    exclude: Tensor | None = None,
    solver: CuttingPlanes | None = None,
) -> GlobalSolution:
    """Integrate each query's feature from all N pieces: the gradient of one convex, L-smooth potential.

    The map from query to feature is L-Lipschitz whatever the pieces are. Feature and value are differentiable in query,
    features and offsets. A row that fails returns a convex combination of features all the same.

    Args:
        query: x (B, D), float32 or float64.
        pieces: The slopes and offsets.
        smoothness: L, above 0.
        exclude: The position (B,) of a piece that does not count for a query: its own, in leave-one-out.
        solver: Its settings; by default the exact ones.

    Raises:
        InputError: For an L that is not above 0, and for queries of another dimension or type.
    """
    check_smoothness(smoothness)
    _check_query(query, pieces)
    _check_excluded(exclude, query, pieces)
    solver = solver or CuttingPlanes()
    outputs = _Integrated.apply(query, pieces.features, pieces.offsets, pieces, smoothness, exclude, solver)
    return GlobalSolution(**dict(zip(GlobalSolution.__dataclass_fields__, outputs, strict=True)))


def check_smoothness(smoothness: float) -> None:
    """Raise InputError unless L is a number above 0."""
    if not 0 < smoothness < torch.inf:
        raise InputError(f"need a smoothness L > 0, got {smoothness}")


def _check_query(query: Tensor, pieces: Pieces) -> None:
    if query.dim() != 2 or query.shape[1] != pieces.dimension:
        raise InputError(f"the pieces' features have dimension {pieces.dimension}, got queries {tuple(query.shape)}")
    if query.dtype not in (torch.float32, torch.float64):
        raise InputError(f"queries must be float32 or float64, got {query.dtype}")


def _check_excluded(exclude: Tensor | None, query: Tensor, pieces: Pieces) -> None:
    if exclude is None:
        return
    if exclude.shape != query.shape[:1] or exclude.is_floating_point():
        raise InputError(f"exclude must be whole numbers (B,) = {tuple(query.shape[:1])}, got {tuple(exclude.shape)}")
    if len(pieces) == 1:
        raise InputError("need at least two pieces to leave one out, got 1")


class _Integrated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        features: Tensor,
        offsets: Tensor,
        pieces: Pieces,
        smoothness: float,
        exclude: Tensor | None,
        solver: CuttingPlanes,
    ) -> tuple[Tensor, ...]:
        parts = []
        for place in range(0, max(1, len(query)), _BLOCK_ROWS):
            rows = slice(place, place + _BLOCK_ROWS)
            left_out = None if exclude is None else exclude[rows]
            parts.append(_solve_block(query[rows], pieces, smoothness, left_out, solver))
        outputs = _join(parts)
        ctx.pieces, ctx.smoothness = pieces, smoothness
        ctx.save_for_backward(query, outputs["index"], outputs["weights"])
        ctx.mark_non_differentiable(*(outputs[name] for name in ("index", "weights", "proximal", "gap", "status")))
        return tuple(outputs[name] for name in GlobalSolution.__dataclass_fields__)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, feature_grad: Tensor, value_grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        query, index, weights = ctx.saved_tensors
        needs_query, needs_features, needs_offsets = ctx.needs_input_grad[:3]
        pieces, smoothness = ctx.pieces, ctx.smoothness
        query_grad = torch.zeros_like(query) if needs_query else None
        features_grad = torch.zeros_like(pieces.features) if needs_features else None
        offsets_grad = torch.zeros_like(pieces.offsets) if needs_offsets else None
        for place in range(0, len(query), _BLOCK_ROWS):
            rows = slice(place, place + _BLOCK_ROWS)
            near, share = index[rows], weights[rows]
            gradient, level = feature_grad[rows].double(), value_grad[rows].nan_to_num().unsqueeze(1)
            solved = _Adjoint.solve(query[rows].double(), pieces, smoothness, near, share, gradient)
            if query_grad is not None:
                query_grad[rows] = (solved.moved + level * solved.feature).to(query)
            if offsets_grad is not None:
                offsets_grad.index_add_(0, near.flatten(), (solved.multipliers + level * share).flatten())
            if features_grad is not None:
                onto_place = (solved.multipliers + level * share).unsqueeze(2) * solved.proximal.unsqueeze(1)
                across = share.unsqueeze(2) * (gradient - solved.moved / smoothness).unsqueeze(1)
                flat = (onto_place + across).flatten(0, 1).to(features_grad)
                features_grad.index_add_(0, near.flatten(), flat)
        return query_grad, features_grad, offsets_grad, None, None, None, None


@dataclass(frozen=True)
class _Adjoint:
    """The linear system of the module's docstring, solved for n rows.

    Attributes:
        multipliers: `q` (n, k); zero for pieces that are not active.
        moved: `Z_A' q` (n, D).
        feature: `z` (n, D).
        proximal: `w` (n, D).
    """

    multipliers: Tensor
    moved: Tensor
    feature: Tensor
    proximal: Tensor

    @classmethod
    def solve(
        cls, query: Tensor, pieces: Pieces, smoothness: float, index: Tensor, weights: Tensor, gradient: Tensor
    ) -> "_Adjoint":
        features = pieces.take(index)
        feature = (weights.unsqueeze(1) @ features).squeeze(1)
        proximal = query - feature / smoothness
        # The multipliers sum to zero, so that the features may be centered about z.
        centered = features - feature.unsqueeze(1)
        values = (features @ proximal.unsqueeze(2)).squeeze(2) + pieces.offsets.detach()[index]
        slack = (weights * values).sum(1, keepdim=True) - values
        active = (slack < _TIGHT * values.abs().amax(1, keepdim=True)) | (weights > 0)
        face = (active & ~_repeats(index)).to(weights)
        projector = torch.diag_embed(face) - face.unsqueeze(2) * face.unsqueeze(1) / face.sum(1).view(-1, 1, 1)
        system = projector @ (centered @ centered.mT / smoothness) @ projector
        inverse = torch.linalg.pinv(system, rtol=_RANK_TOLERANCE, hermitian=True)
        pushed = projector @ (centered @ gradient.unsqueeze(2))
        multipliers = (projector @ (inverse @ pushed)).squeeze(2)
        moved = (multipliers.unsqueeze(1) @ centered).squeeze(1)
        return cls(multipliers, moved, feature, proximal)


def _repeats(index: Tensor) -> Tensor:
    """Return where (n, k) a position of index (n, k) occurs earlier in its row."""
    same = index.unsqueeze(2) == index.unsqueeze(1)
    return same.tril(-1).any(2)


def _solve_block(
    query: Tensor, pieces: Pieces, smoothness: float, exclude: Tensor | None, solver: CuttingPlanes
) -> dict[str, Tensor]:
    """Solve a block of rows; those that are not finite are solved at zero, and marked."""
    finite = torch.isfinite(query).all(1)
    places = torch.where(finite.unsqueeze(1), query, 0.0).double()
    found, gap = solver.solve(places, pieces, smoothness, exclude)
    proximal = places - found.feature / smoothness
    is_solved = finite & (gap <= solver.tolerance * found.size)
    value = found.level + (found.feature.square().sum(1)) / (2 * smoothness)
    return {
        "feature": found.feature.to(query.dtype),
        "value": torch.where(is_solved, value, torch.nan),
        "index": found.pieces,
        "weights": found.weights,
        "proximal": proximal,
        "gap": torch.where(finite, gap, torch.inf),
        "status": torch.where(is_solved, int(Status.SOLVED), int(Status.FAILED)),
    }


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join blocks of rows; working sets are padded to one width by pieces without weight."""
    width = max(part["index"].shape[1] for part in parts)
    for part in parts:
        padded = width - part["index"].shape[1]
        part["index"] = torch.cat([part["index"], part["index"][:, :1].expand(-1, padded)], 1)
        part["weights"] = torch.cat([part["weights"], part["weights"].new_zeros(len(part["weights"]), padded)], 1)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
