"""What `integrate` refuses."""

import pytest
import torch

from otad_ray.cip import Regularity, integrate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(2, 0, 3)}, "K >= 1"),
        ({"points": torch.zeros(2, 4, 0), "features": torch.zeros(2, 4, 0)}, "D >= 1"),
        ({"features": torch.zeros(2, 4, 5)}, "must agree"),
        ({"query": torch.zeros(3, 3)}, "query must be"),
        ({"query": torch.zeros(2, 3, dtype=torch.float64)}, "must all be float32 or all float64"),
        ({"potentials": torch.zeros(2, 3)}, "potentials must be"),
        ({"solver": "simplex"}, "unknown solver 'simplex'; known: dual, mosek, clarabel"),
        ({"cross_term": "paper"}, "unknown cross_term 'paper'; known: theory, released"),
    ],
)
def test_refuses_bad_input(change: dict, message: str) -> None:
    arguments = {
        "query": torch.zeros(2, 3),
        "points": torch.zeros(2, 4, 3),
        "features": torch.zeros(2, 4, 3),
        "regularity": Regularity(),
    }
    with pytest.raises(ValueError, match=message):
        integrate(**{**arguments, **change})
