"""Attacks: each maps (defense, x, y, budget, streams) to adversarial examples within the budget."""

from otad_ray.attacks.attack import Attack, AttackResult, Cost, Kind
from otad_ray.attacks.budget import Budget, Norm, perturbation_norm
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import BackwardPassGradient, ExactGradient, SmoothedGradient
from otad_ray.attacks.neighbor_aware import NeighborAware
from otad_ray.attacks.noise import Noise
from otad_ray.attacks.pgd import FGSM, PGD, Transfer
from otad_ray.attacks.streams import Streams

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "BackwardPassGradient",
    "Budget",
    "Cost",
    "ExactGradient",
    "Goal",
    "Kind",
    "NeighborAware",
    "Noise",
    "Norm",
    "SmoothedGradient",
    "Streams",
    "Transfer",
    "perturbation_norm",
]
