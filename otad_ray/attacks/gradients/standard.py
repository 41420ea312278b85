"""Gradients that iterative attacks follow: the defense's own, a smoothed one, or that of a net standing in for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from otad_ray.attacks.attack import Cost, Target, check_logits
from otad_ray.attacks.goals import Goal
from otad_ray.defenses.randomness import count_draws
from otad_ray.errors import InputError


class Evaluation(NamedTuple):
    """The defense's logits (B, C), and a direction (B, *shape) in which the goal's loss should grow.

    queries, gradient_queries (B,): what it cost each sample, int64.
    """

    logits: Tensor
    gradient: Tensor
    queries: Tensor
    gradient_queries: Tensor


class Gradient(Protocol):
    """A way to find the direction at moved (B, *shape), near the target's samples.

    cost: at most, per evaluation of a sample.
    """

    @property
    def cost(self) -> Cost: ...

    def __call__(self, target: Target, moved: Tensor, goal: Goal) -> Evaluation: ...


@dataclass(frozen=True)
class ExactGradient:
    """Automatic differentiation of the defense; for OTAD through the program's optimality conditions.

    For a random defense it is the mean over its draws: expectation over transformation (Athalye et al. 2018).
    """

    @property
    def cost(self) -> Cost:
        return Cost(0, 1)

    def __call__(self, target: Target, moved: Tensor, goal: Goal) -> Evaluation:
        draws = count_draws(target.defense)
        logits, gradient = _average(draws, lambda: _differentiate(target.defense, moved, target.y, goal))
        return Evaluation(logits, gradient, _counts(moved, draws), _counts(moved, draws))


@dataclass(frozen=True, kw_only=True)
class SmoothedGradient:
    """The defense's own gradient and, where that is zero, the gradient of its loss averaged over Gaussian noise.

    A piecewise constant loss has no gradient, but its average has: from the draws' own gradients where those do not
    vanish, else from differences of antithetic draws, `(loss(x + d) - loss(x - d)) d / 2 |d|^2`.
    pairs: antithetic draws. radius: expected norm of a draw, as a part of eps.
    """

    pairs: int = 4
    radius: float = 0.25

    @property
    def cost(self) -> Cost:
        return Cost(0, 1 + 2 * self.pairs)

    def __call__(self, target: Target, moved: Tensor, goal: Goal) -> Evaluation:
        logits, _, gradient = _differentiate(target.defense, moved, target.y, goal)
        flat = is_zero(gradient)
        rows = flat.nonzero().squeeze(1)
        if len(rows):
            gradient[rows] = self._smoothed(target.take(rows), moved[rows], goal)
        queries = _counts(moved, 1) + 2 * self.pairs * flat.long()
        return Evaluation(logits, gradient, queries, queries)

    def _smoothed(self, target: Target, x: Tensor, goal: Goal) -> Tensor:
        budget = target.budget
        scale = self.radius * budget.eps
        if budget.norm == "l2":
            scale /= x[0].numel() ** 0.5
        draws = scale * target.streams.normal(self.pairs, *x.shape[1:]).to(x)
        both = torch.cat([draws, -draws], 1)
        around = budget.clip((x.unsqueeze(1) + both).flatten(0, 1))
        labels = target.y.repeat_interleave(2 * self.pairs)
        _, losses, gradients = _differentiate(target.defense, around, labels, goal)
        pathwise = gradients.view_as(both).mean(1)
        losses = losses.view(len(x), 2, self.pairs).nan_to_num()
        rise = (losses[:, 0] - losses[:, 1]) / draws.flatten(2).square().sum(2).clamp_min(1e-30)
        differences = (draws * rise.view(*rise.shape, *[1] * (x.dim() - 1))).mean(1) / 2
        return torch.where(is_zero(pathwise).view(-1, *[1] * (x.dim() - 1)), differences, pathwise)


@dataclass(frozen=True)
class BackwardPassGradient:
    """BPDA: the defense's outputs forward, something differentiable backward (Athalye et al. 2018; paper, Section V.B).

    Backward through a purifier goes the identity, and then its classifier's gradient at the purified input. Backward
    through any other defense goes the undefended net. For a random defense it is the mean over its draws.
    """

    @property
    def cost(self) -> Cost:
        return Cost(0, 1)

    def __call__(self, target: Target, moved: Tensor, goal: Goal) -> Evaluation:
        draws = count_draws(target.defense)
        replace_backward = _skip_purifier if isinstance(target.defense, Purifying) else _replace_defense
        logits, gradient = _average(
            draws, lambda: _differentiate(replace_backward(target, moved), moved, target.y, goal)
        )
        return Evaluation(logits, gradient, _counts(moved, draws), _counts(moved, draws))


@runtime_checkable
class Purifying(Protocol):
    """A defense that makes cleaner inputs, and asks a classifier for them."""

    classifier: nn.Module

    def purify(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape) to inputs of the same kind."""
        ...


def _skip_purifier(target: Target, moved: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a purifying defense as it is at `moved`, with the identity backward through the purifier."""
    purifier = cast(Purifying, target.defense)
    with torch.no_grad():
        purified = purifier.purify(moved)
    return lambda inputs: purifier.classifier(inputs + (purified - inputs).detach())


def _replace_defense(target: Target, moved: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a defense as it is at `moved`, with the undefended net backward."""
    net = undefended_net(target)
    with torch.no_grad():
        outputs = target.defense(moved)
    check_logits(outputs, moved, target.y)

    def forward(inputs: Tensor) -> Tensor:
        approximate = net(inputs)
        return outputs + (approximate - approximate.detach())

    return forward


def undefended_net(target: Target) -> nn.Module:
    """Return the net that the attacker knows; raise InputError if there is none."""
    if target.surrogate is None:
        raise InputError(
            "this attack needs an undefended net: give it a surrogate, a defense with a backbone and a memory"
        )
    return target.surrogate.backbone


def is_zero(gradient: Tensor) -> Tensor:
    """Samples (B,) whose gradient (B, *shape) vanishes."""
    return gradient.flatten(1).abs().amax(1) == 0


def _differentiate(
    forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, goal: Goal
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, C), losses (B,) and their gradient (B, *shape); components that are not finite count as zero."""
    with torch.enable_grad():
        inputs = x.detach().requires_grad_()
        logits = forward(inputs)
        check_logits(logits, x, y)
        losses = goal.losses(logits, y)
        if not losses.requires_grad:
            # A module of thresholds alone has no graph: constant pieces, as a KNN's.
            return logits, losses, torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)
    if gradient is None:
        gradient = torch.zeros_like(x)
    return logits.detach(), losses.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)


def _average(draws: int, ask: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return logits (B, C) and gradients (B, *shape), averaged over so many answers of `_differentiate`."""
    logits, _, gradient = ask()
    for _ in range(draws - 1):
        more_logits, _, more_gradient = ask()
        logits, gradient = logits + more_logits, gradient + more_gradient
    return logits / draws, gradient / draws


def _counts(x: Tensor, value: int) -> Tensor:
    return torch.full((len(x),), value, dtype=torch.int64)
