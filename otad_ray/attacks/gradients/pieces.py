"""The direction from the best right piece to the best wrong one, for a defense over all training points."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from otad_ray.attacks.attack import Cost, Target
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients.standard import Evaluation, ExactGradient
from otad_ray.cip import GlobalSolution
from otad_ray.defenses import OTADGlobal


@dataclass(frozen=True)
class PieceGradient:
    """The exact gradient and, for `otad_global`, the step towards the best wrong piece, each normalized, summed.

    Where one piece alone is active the exact gradient is zero. The direction `z_j - z_i` from the largest piece i that
    the head gives to the label to the largest piece j of another class, at the proximal point, leads across from there.
    Of other defenses it is the exact gradient alone.
    """

    @property
    def cost(self) -> Cost:
        return Cost(0, 1)

    def __call__(self, target: Target, moved: Tensor, goal: Goal) -> Evaluation:
        defense = target.defense
        if not isinstance(defense, OTADGlobal) or target.y.is_floating_point():
            return ExactGradient()(target, moved, goal)
        # The solution that the gradient is taken of shows the pieces too.
        recorder = _SolutionRecorder(defense)
        found = ExactGradient()(replace(target, defense=recorder), moved, goal)
        direction = _lead_across(defense, moved, target.y, recorder.solution)
        return found._replace(gradient=_normalize(found.gradient) + _normalize(direction))


class _SolutionRecorder(nn.Module):
    """A defense that keeps the solution of its last answer."""

    solution: GlobalSolution

    def __init__(self, defense: OTADGlobal) -> None:
        super().__init__()
        self.defense = defense

    def forward(self, inputs: Tensor) -> Tensor:
        logits, _, self.solution = self.defense.forward_details(inputs)
        return logits


def find_piece_direction(defense: OTADGlobal, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the direction (B, *shape) in which the best wrong piece gains most on the best right one.

    Args:
        defense: the defense.
        inputs: (B, *shape).
        labels: the classes (B,) to leave. A sample without right or without wrong pieces gets zero.
    """
    with torch.no_grad():
        return _lead_across(defense, inputs, labels, defense.integrate(inputs))


def _lead_across(defense: OTADGlobal, inputs: Tensor, labels: Tensor, solution: GlobalSolution) -> Tensor:
    """Return the direction of `find_piece_direction` at inputs with this solution."""
    pieces = defense.pieces
    features = pieces.features.detach()
    right, wrong = pieces.find_right_and_wrong(solution.proximal.detach(), defense.piece_classes, labels)
    across = features[wrong.clamp_min(0)] - features[right.clamp_min(0)]
    across = across * ((right >= 0) & (wrong >= 0)).unsqueeze(1)
    with torch.enable_grad():
        moved = inputs.detach().requires_grad_()
        points = defense.find_points(moved)
        (direction,) = torch.autograd.grad((points * across.to(points)).sum(), moved)
    return direction


def _normalize(direction: Tensor) -> Tensor:
    norms = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction / norms.view(-1, *[1] * (direction.dim() - 1))
