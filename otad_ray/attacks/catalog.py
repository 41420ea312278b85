"""The attacks by name. To add one, add an entry."""

from collections.abc import Mapping

from otad_ray.attacks.attack import Attack
from otad_ray.attacks.auto_attack import AutoAttack
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import BackwardPassGradient, SmoothedGradient
from otad_ray.attacks.metric_pgd import MetricPGD
from otad_ray.attacks.neighbor_aware import NeighborAware
from otad_ray.attacks.nevergrad_cw import NevergradCW, NevergradProjected
from otad_ray.attacks.noise import Noise
from otad_ray.attacks.pgd import FGSM, PGD, Transfer
from otad_ray.attacks.square import Square
from otad_ray.errors import InputError

ATTACKS: Mapping[str, Attack] = {
    "noise": Noise(),
    "fgsm": FGSM(),
    "pgd": PGD(steps=100),
    "smoothed_pgd": PGD(gradient=SmoothedGradient()),
    # As in the paper: 100 iterations, the undefended net backward.
    "bpda_pgd": PGD(steps=100, gradient=BackwardPassGradient()),
    # Whether twice the iterations move much.
    "pgd_200": PGD(steps=200),
    # The margin's gradient does not vanish where the net is sure of itself.
    "pgd_restarts": PGD(steps=100, restarts=5, goal=Goal("margin")),
    "transfer": Transfer(),
    "neighbor_aware": NeighborAware(),
    "dml_pgd": MetricPGD(),
    "square_500": Square(queries=500),
    "square_2000": Square(queries=2000),
    "cw_ngopt_0.1": NevergradCW(sigma=0.1),
    "cw_ngopt_0.15": NevergradCW(sigma=0.15),
    "cw_ngopt_0.2": NevergradCW(sigma=0.2),
    "cw_ngopt_projected": NevergradProjected(sigma=0.15),
    "autoattack": AutoAttack(),
}


def find_attack(name: str) -> Attack:
    """The attack of that name; InputError with the known ones for any other."""
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}; known: {', '.join(ATTACKS)}")
    return ATTACKS[name]
