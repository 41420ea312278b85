"""Attacks by name."""

import pytest

from otad_ray.attacks import ATTACKS, find_attack
from otad_ray.errors import InputError


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
