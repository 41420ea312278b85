"""What every attack is: from inputs and a budget to adversarial examples, with their cost counted."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from otad_ray.attacks.budget import NORMS, Budget
from otad_ray.attacks.streams import Streams
from otad_ray.defenses import MemoryDefense
from otad_ray.errors import InputError

# noise and one_step are baselines that a stronger attack must beat; black_box asks for outputs only; surrogate
# optimizes something else than the defense (another net, distances to training points); ensemble joins several.
Kind = Literal["noise", "one_step", "gradient", "black_box", "surrogate", "ensemble"]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """x_adv (B, *shape): within the budget. Unbroken samples hold the attack's best try.

    queries (B,): evaluations of the defense's outputs, int64; gradient_queries (B,): those with a gradient, int64.
    zero_gradient_share (B,): part of the gradients that were zero, float64; NaN where none was asked for.
    """

    x_adv: Tensor
    queries: Tensor
    gradient_queries: Tensor
    zero_gradient_share: Tensor


@dataclass(frozen=True)
class Cost:
    """The most evaluations that an attack makes of one sample: of outputs alone, and of outputs with a gradient.

    own_seconds: what the attack itself takes for a sample, where that matters.
    """

    forwards: int
    gradients: int = 0
    own_seconds: float = 0.0

    @property
    def total(self) -> int:
        """Evaluations, one with a gradient as two."""
        return self.forwards + 2 * self.gradients


@dataclass(frozen=True, eq=False)
class Target:
    """What is attacked: a defense at samples x (B, *shape) with labels y (B,), within a budget.

    streams: one per sample. guide: whose net and training points the attacker knows, or None.
    """

    defense: nn.Module
    x: Tensor
    y: Tensor
    budget: Budget
    streams: Streams
    guide: MemoryDefense | None

    def take(self, rows: Tensor) -> "Target":
        """The samples at positions rows (n,), with their own streams."""
        return replace(self, x=self.x[rows], y=self.y[rows], streams=self.streams.take(rows))


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with its settings; frozen, so that a name stands for one attack.

    kind: what it needs, for the comparisons between attacks. chooses_norm: it is run once, with an infinite eps.
    norms, tasks: what it can do. revision: to be raised with a change of what it finds, lest old records pass for new.
    """

    kind: ClassVar[Kind]
    revision: ClassVar[int] = 1
    chooses_norm: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = NORMS
    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    @property
    def needs_surrogate(self) -> bool:
        """Whether the attacker must know a net and training points that the defense itself may not have."""
        return False

    def __call__(
        self,
        defense: nn.Module,
        x: Tensor,
        y: Tensor,
        budget: Budget,
        streams: Streams,
        *,
        guide: MemoryDefense | None = None,
    ) -> AttackResult:
        """Attack samples x (B, *shape) within the bounds, with labels y (B,): classes, or float targets.

        defense: inputs to logits (B, C). streams: one per sample. guide: whose net and training points the attacker
        knows, where the attack uses them; by default the defense itself.
        Raises InputError for inputs, labels or budgets that cannot be, before the first query.
        """
        x = x.detach()
        self.check(budget, regression=y.is_floating_point())
        budget.check_inputs(x)
        if not len(x) == len(y) == len(streams):
            raise InputError(f"x, y and streams must agree in length, got {len(x)}, {len(y)} and {len(streams)}")
        if budget.eps == 0 or not len(x):
            none = torch.zeros(len(x), dtype=torch.int64)
            share = torch.full((len(x),), torch.nan, dtype=torch.float64)
            return AttackResult(x_adv=x.clone(), queries=none, gradient_queries=none, zero_gradient_share=share)
        known = guide if guide is not None else defense if isinstance(defense, MemoryDefense) else None
        result = self._run(Target(defense, x, y, budget, streams, known))
        return AttackResult(**{**vars(result), "x_adv": budget.finish(x, result.x_adv)})

    def check(self, budget: Budget, *, regression: bool) -> None:
        """InputError unless the attack can be run with this budget on such labels."""
        task = "regression" if regression else "classification"
        if task not in self.tasks:
            raise InputError(f"{type(self).__name__} attacks {' and '.join(self.tasks)} only, this is {task}")
        if budget.norm not in self.norms:
            raise InputError(f"{type(self).__name__} knows {', '.join(self.norms)}, got norm {budget.norm!r}")
        if budget.eps == inf and not self.chooses_norm:
            raise InputError(f"{type(self).__name__} needs a finite eps")

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """The most evaluations per sample and budget."""

    @abstractmethod
    def _run(self, target: Target) -> AttackResult: ...


def check_logits(logits: Tensor, x: Tensor, y: Tensor) -> None:
    """InputError unless logits are (B, C) for the batch, and classes y within C."""
    if logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"a defense must map (B, ...) = {tuple(x.shape)} to logits (B, C), got {tuple(logits.shape)}")
    if y.is_floating_point():
        if logits.shape[1] != 1:
            raise InputError(f"a regressor must return (B, 1), got {tuple(logits.shape)}")
    elif len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise InputError(
            f"labels lie in {int(y.min())} .. {int(y.max())}, but the defense returns {logits.shape[1]} classes"
        )
