"""Attacks: each maps (defense, x, y, budget) to adversarial examples within the budget."""

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target, check_logits
from otad_ray.attacks.auto_attack import AutoAttack
from otad_ray.attacks.budget import NORMS, Budget, Norm, perturbation_norm
from otad_ray.attacks.catalog import ATTACKS, NamedAttack, find_attack, name_attack
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import BackwardPassGradient, ExactGradient, Gradient, SmoothedGradient
from otad_ray.attacks.metric_pgd import MetricPGD
from otad_ray.attacks.neighbor_aware import NeighborAware
from otad_ray.attacks.nevergrad_cw import NevergradCW, NevergradProjected
from otad_ray.attacks.noise import Noise
from otad_ray.attacks.pgd import FGSM, PGD, Transfer
from otad_ray.attacks.progress import Active, Progress
from otad_ray.attacks.square import Square
from otad_ray.attacks.streams import Streams

__all__ = [
    "ATTACKS",
    "FGSM",
    "NORMS",
    "PGD",
    "Active",
    "Attack",
    "AttackKind",
    "AttackResult",
    "AutoAttack",
    "BackwardPassGradient",
    "Budget",
    "Cost",
    "ExactGradient",
    "Goal",
    "Gradient",
    "MetricPGD",
    "NamedAttack",
    "NeighborAware",
    "NevergradCW",
    "NevergradProjected",
    "Noise",
    "Norm",
    "Progress",
    "SmoothedGradient",
    "Square",
    "Streams",
    "Target",
    "Transfer",
    "check_logits",
    "find_attack",
    "name_attack",
    "perturbation_norm",
]
