"""Random noise of the same norm: what every attack must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.budget import Budget, perturbation_norm, random_directions
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.progress import Active, Progress

# A draw is made at most so many times longer, in steps of 1 / 2^20 of that.
_LONGEST = 16.0
_HALVINGS = 20


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """The worst of several draws of norm eps: a random direction (l2), or random signs (linf).

    Clipping to the bounds shortens a draw; it is stretched before, so that it has norm eps where the bounds allow.
    """

    kind: ClassVar[AttackKind] = "noise"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    draws: int = 1

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.draws)

    def _run(self, target: Target) -> AttackResult:
        x, budget = target.x, target.budget
        progress = Progress(x, target.y, Goal())
        active = Active(target, progress)
        active.evaluate()
        for _ in active.steps(self.draws):
            directions = random_directions(active.target.streams, x.shape[1:]).to(x)
            active.moved = _stretched(active.target.x, budget.step(directions, budget.eps), budget)
            active.evaluate()
        return progress.result()


def _stretched(x: Tensor, directions: Tensor, budget: Budget) -> Tensor:
    """x plus the shortest multiple of at least 1 of each direction that has norm eps after clipping, by bisection."""
    low, high = torch.ones(len(x), device=x.device), torch.full((len(x),), _LONGEST, device=x.device)
    shape = (-1, *[1] * (x.dim() - 1))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        moved = budget.clip(x + middle.view(shape) * directions)
        short = perturbation_norm(moved - x, budget.norm) < budget.eps
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return budget.project(x, budget.clip(x + high.view(shape) * directions))
