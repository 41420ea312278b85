"""Attacks by name."""

import pickle
from pathlib import Path

import pytest
import torch

from helpers.nets import TwoClasses
from otad_ray.attacks import ATTACKS, Budget, NamedAttack, find_attack, name_attack
from otad_ray.errors import InputError

MINE = """
from dataclasses import dataclass
from otad_ray.attacks import Active, Attack, Cost, Goal, Progress
from helper import SIZE

@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    kind = "black_box"
    size: float = SIZE

    @property
    def cost(self):
        return Cost(1)

    def _run(self, target):
        progress = Progress(target.x, target.y, Goal())
        active = Active(target, progress)
        active.move(-self.size * target.x.sign())
        active.evaluate()
        return progress.result()

small = Shift(size=0.1)

@dataclass(frozen=True, kw_only=True)
class Kindless(Shift):
    kind = "magic"
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("SIZE = 0.5")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_names_find_attacks_and_their_costs_are_stated() -> None:
    assert find_attack("pgd") is ATTACKS["pgd"]
    assert len(set(ATTACKS.values())) == len(ATTACKS)
    for attack in ATTACKS.values():
        assert attack.cost.forwards >= 1
    assert ATTACKS["pgd"].cost.gradients == 100
    assert ATTACKS["square_500"].cost.forwards == 501
    assert ATTACKS["cw_ngopt_0.1"].cost.forwards == 851


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown attack 'pdg'; known: .*pgd.*autoattack"):
        find_attack("pdg")


@pytest.mark.parametrize(("name", "size"), [("Shift", 0.5), ("small", 0.1)])
def test_an_attack_in_a_users_file_is_run(mine: Path, name: str, size: float) -> None:
    attack = find_attack(f"{mine}:{name}")
    x = torch.ones(2, 3)
    result = attack(TwoClasses(torch.ones(3)), x, torch.ones(2, dtype=torch.int64), Budget(eps=0.5, norm="linf"))
    torch.testing.assert_close(result.x_adv, x - size, rtol=0, atol=1e-5)
    assert find_attack(f"{mine}:{name}") is attack


def test_a_users_attack_is_named_by_plain_data(mine: Path) -> None:
    named = name_attack(f"{mine}:Shift")
    assert named == NamedAttack("mine.Shift", f"{mine}:Shift", named.fingerprint)
    # As it reaches an actor.
    assert pickle.loads(pickle.dumps(named)).attack is named.attack
    assert name_attack("pgd") == NamedAttack("pgd", None, None)
    assert name_attack("pgd").attack is ATTACKS["pgd"]
    (mine.parent / "helper.py").write_text("SIZE = 0.7")
    assert name_attack(f"{mine}:Shift").fingerprint != named.fingerprint
    assert find_attack(f"{mine}:Shift").size == 0.7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SIZE", "is a float; need a subclass of otad_ray.attacks.Attack"),
        ("Goal", "is a Goal; need a subclass"),
        ("Kindless", "needs a `kind`, one of gradient, one_step"),
        ("Shfit", "has no 'Shfit'; need a subclass .*It has: .*Shift, small, Kindless"),
    ],
)
def test_what_is_no_attack_is_refused(mine: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_attack(f"{mine}:{name}")
