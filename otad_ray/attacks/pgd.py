"""Projected gradient ascent (Madry et al. 2018), with any of the gradients; one step of it is FGSM."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import BackwardPassGradient, ExactGradient, Gradient, is_zero, undefended_net
from otad_ray.attacks.progress import Active, Progress


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Steps of length `relative_step * eps / steps` along the normalized gradient, from a random point of the ball.

    The best iterate is kept; a sample that is misclassified is left alone. restarts: independent random starts.
    Float targets: the iterate of the largest error (the regression attack of the paper's Table V).
    """

    kind: ClassVar[AttackKind] = "gradient"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    steps: int = 100
    relative_step: float = 2.5
    restarts: int = 1
    gradient: Gradient = field(default_factory=ExactGradient)
    goal: Goal = field(default_factory=Goal)

    @property
    def needs_surrogate(self) -> bool:
        return isinstance(self.gradient, BackwardPassGradient)

    @property
    def cost(self) -> Cost:
        each = self.gradient.cost
        return Cost(1 + self.restarts * (self.steps * each.forwards + 1), self.restarts * self.steps * each.gradients)

    def _run(self, target: Target) -> AttackResult:
        progress = Progress(target.x, target.y, self.goal)
        progress.evaluate(target.defense, progress.open, target.x)
        budget = target.budget
        size = self.relative_step * budget.eps / self.steps
        for _ in range(self.restarts):
            active = Active(target, progress)
            active.moved = budget.random_point(active.target.x, active.target.streams)
            for _ in active.steps(self.steps):
                gradient = active.differentiate(self.gradient)
                active.move(budget.step(gradient, size))
                # A sample without a gradient does not move, and would have none again.
                active.leave(is_zero(gradient))
            active.evaluate()
        return progress.result()


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of length eps along the gradient at the sample (Goodfellow et al. 2015)."""

    kind: ClassVar[AttackKind] = "one_step"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    gradient: Gradient = field(default_factory=ExactGradient)
    goal: Goal = field(default_factory=Goal)

    @property
    def needs_surrogate(self) -> bool:
        return isinstance(self.gradient, BackwardPassGradient)

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.gradient.cost.forwards, self.gradient.cost.gradients)

    def _run(self, target: Target) -> AttackResult:
        progress = Progress(target.x, target.y, self.goal)
        active = Active(target, progress)
        gradient = active.differentiate(self.gradient)
        active.move(target.budget.step(gradient, target.budget.eps))
        active.evaluate()
        return progress.result()


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """PGD on the undefended net to its end, however soon that is fooled: the example of the largest margin there."""

    kind: ClassVar[AttackKind] = "surrogate"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    steps: int = 100
    relative_step: float = 2.5
    goal: Goal = field(default_factory=lambda: Goal("margin"))

    @property
    def needs_surrogate(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return Cost(1)

    def _run(self, target: Target) -> AttackResult:
        x, y, budget = target.x, target.y, target.budget
        net, exact = undefended_net(target), ExactGradient()
        on_net = replace(target, defense=net)
        size = self.relative_step * budget.eps / self.steps
        moved = budget.random_point(x, target.streams)
        best, highest = moved, torch.full((len(x),), -torch.inf, device=x.device)
        for _ in range(self.steps):
            found = exact(on_net, moved, self.goal)
            best, highest = _better(best, highest, moved, self.goal.scores(found.logits, y))
            moved = budget.project(x, moved + budget.step(found.gradient, size))
        with torch.no_grad():
            best, _ = _better(best, highest, moved, self.goal.scores(net(moved), y))
        progress = Progress(x, y, self.goal)
        progress.evaluate(target.defense, progress.open, best)
        return progress.result()


def _better(best: Tensor, highest: Tensor, moved: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    better = scores > highest
    return torch.where(better.view(-1, *[1] * (best.dim() - 1)), moved, best), torch.maximum(highest, scores)
