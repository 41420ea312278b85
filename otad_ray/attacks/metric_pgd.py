"""DML attack (paper, Section V.E): the input's key is driven away, so that the search finds other neighbors."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.progress import Active, Progress
from otad_ray.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MetricPGD(Attack):
    """Untargeted PGD on the metric net alone: steps along the gradient of `|f(x') - f(x)|^2`, f the metric net.

    Steps have length `relative_step * eps / steps` and start at a random point of the ball: at the sample itself the
    gradient is zero. The defense is asked every few steps, and at the last, whether it is fooled; the best iterate is
    kept. restarts: independent random starts. It needs a surrogate with a metric net.
    """

    kind: ClassVar[AttackKind] = "surrogate"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    steps: int = 100
    relative_step: float = 2.5
    restarts: int = 2
    steps_per_query: int = 5

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "steps_per_query"):
            if getattr(self, name) < 1:
                raise InputError(f"need {name} >= 1, got {getattr(self, name)}")

    @property
    def needs_surrogate(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.restarts * ceil(self.steps / self.steps_per_query))

    def _run(self, target: Target) -> AttackResult:
        metric = _metric_net(target)
        progress = Progress(target.x, target.y, Goal())
        progress.evaluate(target.defense, progress.open, target.x)
        for _ in range(self.restarts):
            active = Active(target, progress)
            if len(active):
                self._climb(active, metric)
        return progress.result()

    def _climb(self, active: Active, metric: nn.Module) -> None:
        """Climb once, from a random start."""
        budget = active.target.budget
        size = self.relative_step * budget.eps / self.steps
        with torch.no_grad():
            keys = metric(active.target.x)
        active.moved = budget.random_point(active.target.x, active.target.streams)
        for step in active.steps(self.steps):
            active.move(budget.step(_gradient(metric, active.moved, keys), size))
            if step % self.steps_per_query == 0 or step == self.steps:
                keys = keys[active.evaluate()]


def _metric_net(target: Target) -> nn.Module:
    """Return the net that the surrogate's memory is searched by; raise InputError if there is none."""
    if target.surrogate is None or target.surrogate.metric is None:
        raise InputError(
            "MetricPGD attacks a metric net: give it a surrogate that searches by one (--metric.architecture makes "
            "one); without one, neighbor_aware attacks the distances between points"
        )
    return target.surrogate.metric


def _gradient(metric: nn.Module, moved: Tensor, keys: Tensor) -> Tensor:
    """Return the gradient of the squared distances between the keys of `moved` (n, *shape) and `keys` (n, E)."""
    with torch.enable_grad():
        inputs = moved.detach().requires_grad_()
        loss = (metric(inputs) - keys).square().sum()
        (gradient,) = torch.autograd.grad(loss, inputs)
    return gradient.nan_to_num(0.0, 0.0, 0.0)
