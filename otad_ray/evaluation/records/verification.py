"""What a defense answers and how it came to it, and whether an adversarial example keeps to its budget."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from otad_ray.attacks import Budget, Norm, Streams
from otad_ray.cip import GlobalSolution, Solution, Status
from otad_ray.defenses import Defense
from otad_ray.defenses.randomness import answer_by_row, is_random
from otad_ray.evaluation.foreign_module import cast_logits

# Examples are projected in float32 and measured in float64: a norm may exceed eps by this share of it.
EPS_TOLERANCE = 1e-6
UNSOLVED = (Status.FAILED, Status.INTERRUPTED)
# The class predicted for a sample without an answer: none, so never counted as right. In regression it is NaN.
NO_PREDICTION = -1
# What streams of noise are for.
_VERIFICATION = "verification"
# Two evaluations of one input that differ by no more than float32 rounding are the same.
_REPEAT_RTOL, _REPEAT_ATOL = 1e-5, 1e-6


@runtime_checkable
class DetailedDefense(Protocol):
    """A defense that tells how it came to its logits, as all of `otad_ray.defenses` do."""

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, Solution | GlobalSolution | None]:
        """Return what `forward` returns (B, C), the feature (B, D) before the head or None, the solution or None."""
        ...


@dataclass(frozen=True)
class Outputs:
    """What a defense answered.

    Attributes:
        logits: (B, C).
        feature: (B, D), or None.
        solution: how the feature was solved for, or None.
    """

    logits: Tensor
    feature: Tensor | None
    solution: Solution | GlobalSolution | None

    @property
    def solved(self) -> Tensor:
        """Whether there is an answer at all (B,), bool; a solver that failed or was interrupted gave none."""
        if self.solution is None:
            return torch.ones(len(self.logits), dtype=torch.bool, device=self.logits.device)
        return ~torch.isin(self.solution.status, self.solution.status.new_tensor([int(code) for code in UNSOLVED]))

    @property
    def finite(self) -> Tensor:
        """Whether all logits are finite (B,), bool."""
        return self.logits.isfinite().all(1)

    @property
    def answered(self) -> Tensor:
        """Whether there is an answer that means something (B,), bool."""
        return self.solved & self.finite

    def predict(self, *, regression: bool) -> Tensor:
        """Return predictions (B,): classes, -1 without an answer; in regression values in float64, NaN without one."""
        if regression:
            return self.logits[:, 0].double().masked_fill(~self.answered, torch.nan)
        return self.logits.argmax(1).masked_fill(~self.answered, NO_PREDICTION)


@torch.no_grad()
def ask_defense(defense: nn.Module, inputs: Tensor, ids: Tensor) -> Outputs:
    """Return what a defense answers, with the feature and the solution if it has them.

    Args:
        defense: inputs to logits. The noise of a random one follows from the samples' ids alone, so that an answer can
            be repeated.
        inputs: (B, *shape).
        ids: (B,) of the samples.
    """
    if is_random(defense):
        return Outputs(cast_logits(_answer_with_noise(defense, inputs, ids)), None, None)
    # A subclass with a forward of its own is another defense: its logits are what counts.
    overridden = isinstance(defense, Defense) and type(defense).forward is not Defense.forward
    if isinstance(defense, DetailedDefense) and not overridden:
        # No hook shields a user's method: it gets a copy, since it may change its input in place.
        logits, feature, solution = defense.forward_details(inputs.clone())
        return Outputs(cast_logits(logits), feature, solution)
    return Outputs(defense(inputs), None, None)


def _answer_with_noise(defense: nn.Module, inputs: Tensor, ids: Tensor) -> Tensor:
    """Return a random defense's logits (B, C), with noise from streams that the samples' ids seed."""
    streams = Streams.of(0, ids.tolist(), _VERIFICATION)
    return answer_by_row(defense, inputs.clone(), streams.generators)


@torch.no_grad()
def repeat_differs(defense: nn.Module, inputs: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
    """Return whether evaluating inputs (B, *shape) once more gives other logits (B, C), beyond rounding: (B,) bool.

    A random defense gets the same noise again.
    """
    again = _answer_with_noise(defense, inputs, ids) if is_random(defense) else defense(inputs)
    return ~torch.isclose(again, logits, rtol=_REPEAT_RTOL, atol=_REPEAT_ATOL, equal_nan=True).all(1)


def perturbation_norms(x: Tensor, x_adv: Tensor) -> dict[Norm, Tensor]:
    """Return the l2 and linf norms (B,) of `x_adv - x`, both (B, *shape), in float64."""
    step = (x_adv.double() - x.double()).flatten(1)
    return {"l2": step.norm(dim=1), "linf": step.abs().amax(1)}


def keeps_to_budget(x_adv: Tensor, norms: Tensor, budget: Budget) -> Tensor:
    """Return which examples are finite, within the bounds, and of a norm of at most eps (1 + 1e-6): (B,) bool.

    Args:
        x_adv: examples (B, *shape).
        norms: their distances (B,) from the samples, in the budget's norm.
        budget: what they may change.
    """
    flat = x_adv.flatten(1)
    valid = flat.isfinite().all(1) & (norms <= budget.eps * (1 + EPS_TOLERANCE))
    if budget.bounds is not None:
        low, high = flat.new_tensor(budget.bounds)
        valid &= ((flat >= low) & (flat <= high)).all(1)
    return valid
