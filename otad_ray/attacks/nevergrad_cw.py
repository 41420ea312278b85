"""The adaptive Carlini-Wagner attack with Nevergrad's NGOpt (paper, Section V.B), from outputs alone."""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import compress
from math import inf
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.budget import Budget, perturbation_norm
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.progress import ClosestProgress, Progress
from otad_ray.errors import InputError

# An optimizer holds 23 MB at 784 dimensions and 850 evaluations.
_COHORT = 100
# Of one optimizer's ask and tell at 784 dimensions.
_OWN_SECONDS = 6e-4
_NEVER = 1e9


@dataclass(frozen=True, kw_only=True)
class _NevergradSearch(Attack):
    """One NGOpt optimizer per sample over its perturbation; the defense is asked for all samples at once.

    evaluations: of each optimizer, its budget in Nevergrad's words. sigma: standard deviation of the first mutations
    of every value, in the unit of the inputs; no radius: their norm is about `sigma sqrt(D)`.
    """

    kind: ClassVar[AttackKind] = "black_box"
    evaluations: int = 850
    sigma: float = 0.15

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise InputError(f"need evaluations >= 1, got {self.evaluations}")
        if not 0 < self.sigma < inf:
            raise InputError(f"need 0 < sigma < infinity, got {self.sigma}")

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.evaluations, own_seconds=_OWN_SECONDS * self.evaluations)

    def _run(self, target: Target) -> AttackResult:
        progress = self._progress(target.x, target.y)
        progress.evaluate(target.defense, progress.open, target.x)
        # Samples that are misclassified as they are need no attack.
        for rows in progress.open.split(_COHORT):
            self._search(target.take(rows), progress, rows)
        return progress.result()

    def _search(self, target: Target, progress: Progress, rows: Tensor) -> None:
        """Search for the samples at positions rows (n,), which the target holds."""
        x = target.x
        optimizers = [self._optimizer(x[0].numel(), seed) for seed in target.streams.seeds()]
        for _ in range(self.evaluations):
            asked = [optimizer.ask() for optimizer in optimizers]
            delta = torch.from_numpy(np.stack([candidate.value for candidate in asked])).to(x)
            moved = self._candidates(x, delta.view_as(x), target.budget)
            losses = self._losses(x, moved, progress.evaluate(target.defense, rows, moved))
            going = self._going(progress, rows)
            rows, losses, x = rows[going], losses[going], x[going]
            if not len(rows):
                return
            asked, optimizers = (list(compress(items, going.tolist())) for items in (asked, optimizers))
            for optimizer, candidate, loss in zip(optimizers, asked, losses.tolist(), strict=True):
                optimizer.tell(candidate, loss)

    def _optimizer(self, dimension: int, seed: int) -> Any:
        # Imported here: it takes a second, and only this attack needs it.
        import nevergrad

        values = nevergrad.p.Array(init=np.zeros(dimension)).set_mutation(sigma=self.sigma)
        values.random_state = np.random.RandomState(seed)
        optimizer = nevergrad.optimizers.NGOpt(parametrization=values, budget=self.evaluations, num_workers=1)
        # With more evaluations than a quadratic has terms (850: below 40 dimensions) it fits one, which fails with
        # NumPy 2.4 and draws from the process's generator.
        if hasattr(optimizer.optim, "frequency_ratio"):
            optimizer.optim.frequency_ratio = _NEVER
        return optimizer

    @abstractmethod
    def _progress(self, x: Tensor, y: Tensor) -> Progress:
        """How candidates are compared."""

    @abstractmethod
    def _candidates(self, x: Tensor, delta: Tensor, budget: Budget) -> Tensor:
        """What the defense is asked at for perturbations (n, *shape) as the optimizers want them."""

    @abstractmethod
    def _losses(self, x: Tensor, moved: Tensor, margins: Tensor) -> Tensor:
        """What the optimizers minimize (n,)."""

    @abstractmethod
    def _going(self, progress: Progress, rows: Tensor) -> Tensor:
        """Which samples (n,) are searched on."""


@dataclass(frozen=True, kw_only=True)
class NevergradCW(_NevergradSearch):
    """The paper's attack: perturbations of any norm that minimize the loss of Carlini and Wagner (2017).

    `|d|^2 + constant * max(right logit - largest other logit, -confidence)`, d after clipping to the bounds. A sample
    is searched to the end, to shorten its perturbation: the closest misclassified candidate is the result. The paper
    does not give the constant.
    """

    chooses_norm: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    constant: float = 10.0
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("constant", "confidence"):
            if not 0 <= getattr(self, name) < inf:
                raise InputError(f"need 0 <= {name} < infinity, got {getattr(self, name)}")

    def check(self, budget: Budget, *, regression: bool) -> None:
        super().check(budget, regression=regression)
        if 0 < budget.eps < inf:
            raise InputError(f"NevergradCW chooses the norm itself: give it an infinite eps, got {budget.eps}")

    def _progress(self, x: Tensor, y: Tensor) -> Progress:
        return ClosestProgress(x, y, Goal("margin"))

    def _candidates(self, x: Tensor, delta: Tensor, budget: Budget) -> Tensor:
        # Clipped here: given bounds, NGOpt becomes another optimizer (Cobyla).
        return budget.clip(x + delta)

    def _losses(self, x: Tensor, moved: Tensor, margins: Tensor) -> Tensor:
        length = perturbation_norm(moved - x, "l2")
        return length**2 + self.constant * (-margins.double()).clamp_min(-self.confidence)

    def _going(self, progress: Progress, rows: Tensor) -> Tensor:
        return torch.ones_like(rows, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class NevergradProjected(_NevergradSearch):
    """The same search for the largest margin within the budget, by projected candidates, until one is misclassified."""

    def _progress(self, x: Tensor, y: Tensor) -> Progress:
        return Progress(x, y, Goal("margin"))

    def _candidates(self, x: Tensor, delta: Tensor, budget: Budget) -> Tensor:
        return budget.project(x, x + delta)

    def _losses(self, x: Tensor, moved: Tensor, margins: Tensor) -> Tensor:
        return -margins

    def _going(self, progress: Progress, rows: Tensor) -> Tensor:
        return ~progress.reached[rows]
