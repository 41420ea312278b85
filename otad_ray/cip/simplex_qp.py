"""Batched quadratic programs on the simplex, by a primal active-set method.

    maximize  <b, s> - s' H s   over  s >= 0, sum_i s_i = 1,   H positive semidefinite, K x K

A tensor operation advances every unfinished row by one step, so the cost of the method is that of a few
batched K x K linear solves. The gradient is by implicit differentiation of the optimality conditions.
"""

from typing import Any

import torch
from torch import Tensor

# Proximal weight of a step, relative to the scale of the row: makes singular systems solvable, and vanishes
# at convergence because it penalizes the step, not the solution.
_PROXIMAL = 1e-13
# Duality gap, relative to the scale of the row, at which a row is finished: a few roundings.
_GAP = 1e-14
# Slack, relative to the scale of the row, down to which a constraint counts as tight in the gradient.
_TIGHT = 1e-11
# A vertex is left and entered at most a few times; rows beyond this bound show in their residual.
_STEPS_PER_VARIABLE = 10


def solve_simplex_qp(
    quadratic: Tensor, linear: Tensor, *, start: Tensor | None = None, rank_tolerance: float = 1e-12
) -> Tensor:
    """Weights `s` (B, K) that maximize `<b, s> - s' H s` on the simplex.

    quadratic: `H` (B, K, K), float64, symmetric positive semidefinite. linear: `b` (B, K), float64.
    start: weights (B, K) on the simplex that are optimal among those without further indices; they save steps.
    rank_tolerance: eigenvalues of `H` on the active face below this fraction of the largest count as zero
    in the gradient; set it above the relative rounding error of `H`'s entries.

    Differentiable in both; `s` need not be unique, and the gradient is exact for every function of `s` that
    depends on it only through `H s` and the optimal value.
    """
    return _SimplexQP.apply(quadratic, linear, start, rank_tolerance)


class _SimplexQP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, quadratic: Tensor, linear: Tensor, start: Tensor | None, rank_tolerance: float) -> Tensor:
        weights = _active_set(quadratic, linear, start)
        ctx.save_for_backward(quadratic, linear, weights)
        ctx.rank_tolerance = rank_tolerance
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Differentiate `2 H_AA s_A + mu = b_A`, `sum s_A = 1`; A are the indices that are optimal to use.

        Not the support of `s`: where `s` is not unique that may be too small for the exact gradient.
        """
        quadratic, linear, weights = ctx.saved_tensors
        tight = _slack(*_normalized(quadratic, linear), weights) > -_TIGHT
        face = (tight | (weights > 0)).to(weights.dtype)
        size = face.sum(1).view(-1, 1, 1)
        projector = torch.diag_embed(face) - face.unsqueeze(2) * face.unsqueeze(1) / size
        reduced = 2 * projector @ quadratic @ projector
        inverse = torch.linalg.pinv(reduced, rtol=ctx.rank_tolerance, hermitian=True)
        adjoint = (inverse @ (projector @ gradient.unsqueeze(2))).squeeze(2)
        outer = adjoint.unsqueeze(2) * weights.unsqueeze(1)
        return -(outer + outer.mT), adjoint, None, None


def _active_set(quadratic: Tensor, linear: Tensor, start: Tensor | None) -> Tensor:
    size = linear.shape[1]
    quadratic, linear = _normalized(quadratic, linear)
    weights = torch.zeros_like(linear)
    rows = torch.arange(linear.shape[0], device=linear.device)
    if start is None:
        # The best vertex: the largest lower bound known without solving.
        best = (linear - quadratic.diagonal(dim1=1, dim2=2)).argmax(1, keepdim=True)
        start = weights.scatter(1, best, 1.0)
    current = start
    active = current > 0
    solved = torch.ones_like(rows, dtype=torch.bool)

    for _ in range(_STEPS_PER_VARIABLE * size):
        slack = _slack(quadratic, linear, current)
        unfinished = slack.amax(1) > _GAP
        if not bool(unfinished.all()):
            weights[rows] = current
            kept = (rows, current, active, solved, slack)
            rows, current, active, solved, slack = (tensor[unfinished] for tensor in kept)
            quadratic, linear = quadratic[unfinished], linear[unfinished]
        if rows.numel() == 0:
            break
        current, active, solved = _step(quadratic, current, active, solved, slack)
    weights[rows] = current
    return weights


def _normalized(quadratic: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """The same programs with terms of size one; all-zero programs stay as they are."""
    linear = linear - linear.amax(1, keepdim=True)
    scale = linear.abs().amax(1) + 2 * quadratic.diagonal(dim1=1, dim2=2).amax(1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return quadratic / scale.view(-1, 1, 1), linear / scale.unsqueeze(1)


def _slack(quadratic: Tensor, linear: Tensor, weights: Tensor) -> Tensor:
    """Gradient less its mean under `weights`: its largest entry bounds the distance to the optimum."""
    gradient = linear - 2 * (quadratic @ weights.unsqueeze(2)).squeeze(2)
    return gradient - (weights * gradient).sum(1, keepdim=True)


def _step(
    quadratic: Tensor, weights: Tensor, active: Tensor, solved: Tensor, slack: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every row: enter the steepest index where the face is solved, then move within the face.

    solved (B,): whether the weights maximize the objective on their face. An index that enters before that may be
    the first to leave again, for ever; one that enters after it gains.
    """
    face_slack = torch.where(active, slack.abs(), 0).amax(1)
    outside = torch.where(active, -torch.inf, slack)
    entering = outside.argmax(1, keepdim=True)
    steepest = outside.amax(1)
    enters = solved & (steepest > _GAP) & (steepest >= face_slack)
    active = active.scatter(1, entering, active.gather(1, entering) | enters.unsqueeze(1))

    direction = _face_direction(quadratic, active, slack)
    shrinking = active & (direction < 0)
    ratio = torch.where(shrinking, weights / -direction, torch.inf)
    length = ratio.amin(1, keepdim=True).clamp_max(1.0)
    leaving = shrinking & (ratio <= length)
    weights = torch.where(leaving, 0.0, weights + length * direction).clamp_min(0.0)
    return weights / weights.sum(1, keepdim=True), active & ~leaving, ~leaving.any(1)


def _face_direction(quadratic: Tensor, active: Tensor, slack: Tensor) -> Tensor:
    """Maximizer over the face's affine hull, relative to the current weights, with a proximal term."""
    num_rows, size = active.shape
    on_face = active.to(quadratic.dtype)
    system = torch.zeros(num_rows, size + 1, size + 1, dtype=quadratic.dtype, device=quadratic.device)
    system[:, :size, :size] = 2 * quadratic * on_face.unsqueeze(2) * on_face.unsqueeze(1)
    system[:, :size, :size] += torch.diag_embed(1 + (_PROXIMAL - 1) * on_face)
    system[:, :size, size] = on_face
    system[:, size, :size] = on_face
    right = torch.cat([slack * on_face, slack.new_zeros(num_rows, 1)], 1)
    solution, _ = torch.linalg.solve_ex(system, right)
    return torch.where(active, solution[:, :size], 0.0)
