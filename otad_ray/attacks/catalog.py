"""The attacks by name: those of the catalog, and users' own by `path/to/file.py:MyAttack`. To add one, add an entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from otad_ray.attacks.attack import Attack, AttackKind
from otad_ray.attacks.auto_attack import AutoAttack
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import BackwardPassGradient, PieceGradient, SmoothedGradient
from otad_ray.attacks.metric_pgd import MetricPGD
from otad_ray.attacks.neighbor_aware import NeighborAware
from otad_ray.attacks.nevergrad_cw import NevergradCW, NevergradProjected
from otad_ray.attacks.noise import Noise
from otad_ray.attacks.pgd import FGSM, PGD, Transfer
from otad_ray.attacks.square import Square
from otad_ray.errors import InputError, name_type
from otad_ray.user_module import call_object, fingerprint, is_location, load_object, split_location

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
    # Of a defense over all training points: where one piece is active it has no gradient, but a direction.
    "piece_pgd": PGD(steps=100, gradient=PieceGradient(), goal=Goal("margin")),
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


_EXPECTED = "a subclass of otad_ray.attacks.Attack, or an instance of one"


@dataclass(frozen=True)
class NamedAttack:
    """An attack as other processes can be told of it: users' classes do not pickle, their locations do.

    Attributes:
        name: A name of the catalog, or `<file stem>.<name in the file>` for a user's own.
        location: `path/to/file.py:MyAttack` with an absolute path; None for the catalog's.
        fingerprint: Of the user's file and what it imports from its folder; None for the catalog's.
    """

    name: str
    location: str | None = None
    fingerprint: str | None = None

    @property
    def attack(self) -> Attack:
        """Return the attack, which a user's file is executed for, once per process."""
        return ATTACKS[self.name] if self.location is None else _open_attack(self.location)


def name_attack(name: str) -> NamedAttack:
    """Return the attack of a catalog's name or of `path/to/file.py:MyAttack`, as plain data.

    Raises:
        InputError: For an unknown name, with the known ones, and for a file that holds no such attack.
    """
    if not is_location(name):
        if name not in ATTACKS:
            raise InputError(
                f"unknown attack {name!r}; known: {', '.join(ATTACKS)}, or path/to/file.py:MyAttack for your own"
            )
        return NamedAttack(name)
    path, attribute = split_location(name, expected=_EXPECTED)
    location = f"{path}:{attribute}"
    _open_attack(location)
    return NamedAttack(f"{path.stem}.{attribute}", location, fingerprint(location))


def find_attack(name: str) -> Attack:
    """Return the attack of a catalog's name or of `path/to/file.py:MyAttack`.

    Args:
        name: What a user asks for. A class in a file stands for its instance with default settings.

    Raises:
        InputError: For an unknown name, with the known ones, and for a file that holds no such attack.
    """
    return name_attack(name).attack


def _open_attack(location: str) -> Attack:
    return _make_attack(location, load_object(location, expected=_EXPECTED))


@lru_cache(maxsize=64)
def _make_attack(location: str, found: object) -> Attack:
    """Make the attack, once per content of the file: `found` is what the location names."""
    attack = call_object(location, expected=_EXPECTED) if isinstance(found, type) else found
    if not isinstance(attack, Attack):
        raise InputError(f"{location} is {name_type(attack)}; need {_EXPECTED}")
    if getattr(attack, "kind", None) not in get_args(AttackKind):
        raise InputError(f"{location} needs a `kind`, one of {', '.join(get_args(AttackKind))}")
    return attack
