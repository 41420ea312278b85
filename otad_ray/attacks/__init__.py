"""Attacks: each maps (defense, x, y, budget, streams) to adversarial examples within the budget."""

from otad_ray.attacks.attack import Attack, AttackResult, Cost, Kind, Target, check_logits
from otad_ray.attacks.auto_attack import AutoAttack
from otad_ray.attacks.budget import Budget, Norm, perturbation_norm
from otad_ray.attacks.catalog import ATTACKS, find_attack
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import BackwardPassGradient, ExactGradient, SmoothedGradient
from otad_ray.attacks.metric_pgd import MetricPGD
from otad_ray.attacks.neighbor_aware import NeighborAware
from otad_ray.attacks.nevergrad_cw import NevergradCW, NevergradProjected
from otad_ray.attacks.noise import Noise
from otad_ray.attacks.pgd import FGSM, PGD, Transfer
from otad_ray.attacks.square import Square
from otad_ray.attacks.streams import Streams

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "BackwardPassGradient",
    "Budget",
    "Cost",
    "ExactGradient",
    "Goal",
    "Kind",
    "MetricPGD",
    "NeighborAware",
    "NevergradCW",
    "NevergradProjected",
    "Noise",
    "Norm",
    "SmoothedGradient",
    "Square",
    "Streams",
    "Target",
    "Transfer",
    "check_logits",
    "find_attack",
    "perturbation_norm",
]
