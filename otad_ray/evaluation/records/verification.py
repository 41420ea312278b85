"""What a defense answers and how it came to it, and whether an adversarial example keeps to its budget."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from otad_ray.attacks import Norm
from otad_ray.cip import Solution, Status
from otad_ray.defenses import Defense

# Examples are projected in float32 and measured in float64: a norm may exceed eps by this share of it.
EPS_TOLERANCE = 1e-6
UNSOLVED = (Status.FAILED, Status.INTERRUPTED)
# Two evaluations of one input that differ by no more than float32 rounding are the same.
_REPEAT_RTOL, _REPEAT_ATOL = 1e-5, 1e-6


@runtime_checkable
class DetailedDefense(Protocol):
    """A defense that tells how it came to its logits, as all of `otad_ray.defenses` do."""

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, Solution | None]:
        """What `forward` returns (B, C), the feature (B, D) before the head, the solution; None where it has none."""
        ...


@dataclass(frozen=True)
class Outputs:
    """logits (B, C); feature (B, D) or None; solution or None."""

    logits: Tensor
    feature: Tensor | None
    solution: Solution | None

    @property
    def solved(self) -> Tensor:
        """(B,) bool: whether there is an answer at all; a solver that failed or was interrupted gave none."""
        if self.solution is None:
            return torch.ones(len(self.logits), dtype=torch.bool, device=self.logits.device)
        return ~torch.isin(self.solution.status, self.solution.status.new_tensor([int(code) for code in UNSOLVED]))

    @property
    def finite(self) -> Tensor:
        """(B,) bool: whether all logits are finite."""
        return self.logits.isfinite().all(1)


@torch.no_grad()
def defense_outputs(defense: nn.Module, inputs: Tensor) -> Outputs:
    """Logits of inputs (B, *shape), with the feature and the solution where the defense has them."""
    # A subclass with a forward of its own is another defense: its logits are what counts.
    overridden = isinstance(defense, Defense) and type(defense).forward is not Defense.forward
    if isinstance(defense, DetailedDefense) and not overridden:
        return Outputs(*defense.forward_details(inputs))
    return Outputs(defense(inputs), None, None)


@torch.no_grad()
def repeat_differs(defense: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor:
    """(B,) bool: whether evaluating inputs (B, *shape) once more gives logits other than (B, C), beyond rounding."""
    again = defense(inputs)
    return ~torch.isclose(again, logits, rtol=_REPEAT_RTOL, atol=_REPEAT_ATOL, equal_nan=True).all(1)


def perturbation_norms(x: Tensor, x_adv: Tensor) -> dict[Norm, Tensor]:
    """l2 and linf norms (B,) of `x_adv - x`, both (B, *shape), in float64."""
    step = (x_adv.double() - x.double()).flatten(1)
    return {"l2": step.norm(dim=1), "linf": step.abs().amax(1)}


def keeps_to_budget(x_adv: Tensor, norms: Tensor, *, eps: float, bounds: tuple[float, float] | None) -> Tensor:
    """(B,) bool: examples (B, *shape) that are finite, within the bounds, and of norm (B,) at most eps (1 + 1e-6)."""
    flat = x_adv.flatten(1)
    valid = flat.isfinite().all(1) & (norms <= eps * (1 + EPS_TOLERANCE))
    if bounds is not None:
        low, high = flat.new_tensor(bounds)
        valid &= ((flat >= low) & (flat <= high)).all(1)
    return valid
