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
from otad_ray.defenses.randomness import fix_noise, is_random
from otad_ray.errors import InputError

# gradient: iterative, with gradients of any kind. one_step: with one gradient. black_box: from outputs alone.
# surrogate: by optimizing something else, such as another net or distances to training points. ensemble: of several
# kinds. noise: blind to the defense. Noise and one step are baselines that a stronger attack must beat.
AttackKind = Literal["gradient", "one_step", "black_box", "surrogate", "ensemble", "noise"]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack found, and what it cost.

    Attributes:
        x_adv: Examples (B, *shape) within the budget; for a sample that is not broken, the attack's best try.
        queries: Evaluations of the defense's outputs (B,), int64.
        gradient_queries: Those of them that asked for a gradient (B,), int64.
        zero_gradient_share: Share of the gradients that were zero (B,), float64; NaN if none was asked for.
    """

    x_adv: Tensor
    queries: Tensor
    gradient_queries: Tensor
    zero_gradient_share: Tensor


@dataclass(frozen=True)
class Cost:
    """The most evaluations that an attack makes of one sample.

    Attributes:
        forwards: Of outputs alone.
        gradients: Of outputs with a gradient.
        own_seconds: Time that the attack itself takes for a sample, if that matters.
    """

    forwards: int
    gradients: int = 0
    own_seconds: float = 0.0

    @property
    def total(self) -> int:
        """Return the number of evaluations, one with a gradient counted as two."""
        return self.forwards + 2 * self.gradients


@dataclass(frozen=True, eq=False)
class Target:
    """What is attacked.

    Attributes:
        defense: The module, from inputs (B, *shape) to logits (B, C).
        x: Samples (B, *shape).
        y: Their labels (B,): classes, or float targets.
        budget: How far samples may be moved.
        streams: One random stream per sample.
        surrogate: The defense whose net and training points the attacker knows; None if there is none.
    """

    defense: nn.Module
    x: Tensor
    y: Tensor
    budget: Budget
    streams: Streams
    surrogate: MemoryDefense | None

    def take(self, rows: Tensor) -> "Target":
        """Return the samples at positions rows (n,), with their own streams."""
        return replace(self, x=self.x[rows], y=self.y[rows], streams=self.streams.take(rows))


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with its settings; frozen, so that a name stands for one attack.

    A subclass sets `kind` and defines `cost` and `_run`.

    Attributes:
        kind: What the attack needs, for the comparisons between attacks.
        revision: Raise it with every change of what the attack finds: records of another revision are not reused.
        chooses_norm: Whether the attack finds the shortest perturbation; it is then run once, with an infinite eps.
        norms: The norms that it knows.
        tasks: The tasks that it can attack.
    """

    kind: ClassVar[AttackKind]
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
        streams: Streams | None = None,
        *,
        surrogate: MemoryDefense | None = None,
    ) -> AttackResult:
        """Attack samples.

        Args:
            defense: The module to attack, from inputs (B, *shape) to logits (B, C), or (B, 1) in regression. A random
                one takes its noise from `forward(inputs, generator)`, and draws it from the streams of the samples.
            x: Samples (B, *shape), within the budget's bounds.
            y: Their labels (B,): classes, or float targets.
            budget: How far samples may be moved.
            streams: One random stream per sample. By default those of seed 0, by the samples' positions.
            surrogate: The defense whose net and training points the attacker knows, for attacks that use them. By
                default the defense itself, if it has a memory.

        Returns:
            Examples within the budget, to the last digit, and what they cost.

        Raises:
            InputError: For inputs, labels or budgets that cannot be attacked, before the first query.
        """
        x = x.detach()
        streams = Streams.of(0, range(len(x))) if streams is None else streams
        self.check(budget, regression=y.is_floating_point())
        budget.check_inputs(x)
        if not len(x) == len(y) == len(streams):
            raise InputError(f"x, y and streams must agree in length, got {len(x)}, {len(y)} and {len(streams)}")
        if budget.eps == 0 or not len(x):
            none = torch.zeros(len(x), dtype=torch.int64)
            share = torch.full((len(x),), torch.nan, dtype=torch.float64)
            return AttackResult(x_adv=x.clone(), queries=none, gradient_queries=none, zero_gradient_share=share)
        if surrogate is None and isinstance(defense, MemoryDefense):
            surrogate = defense
        if is_random(defense):
            defense = fix_noise(defense, streams.shared_seed())
        result = self._run(Target(defense, x, y, budget, streams, surrogate))
        return AttackResult(**{**vars(result), "x_adv": budget.finish(x, result.x_adv)})

    def check(self, budget: Budget, *, regression: bool) -> None:
        """Raise InputError unless the attack can be run with this budget on such labels."""
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
        """Return the most evaluations per sample and budget."""

    @abstractmethod
    def _run(self, target: Target) -> AttackResult:
        """Attack at least one sample; what is returned is brought into the budget afterwards."""


def check_logits(logits: Tensor, x: Tensor, y: Tensor) -> None:
    """Raise InputError unless logits are (B, C) for the batch x, and classes y lie within C."""
    if logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"a defense must map (B, ...) = {tuple(x.shape)} to logits (B, C), got {tuple(logits.shape)}")
    if y.is_floating_point():
        if logits.shape[1] != 1:
            raise InputError(f"a regressor must return (B, 1), got {tuple(logits.shape)}")
    elif len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise InputError(
            f"labels lie in {int(y.min())} .. {int(y.max())}, but the defense returns {logits.shape[1]} classes"
        )
