"""Two sweeps against each other: what is named, and what is noise."""

import numpy as np
import pyarrow as pa
import pytest

from otad_ray.errors import InputError
from otad_ray.evaluation import find_worsenings

N = 200


def outcomes(
    *, right: int = 190, robust: int = 120, certified: int = 60, defense: str = "otad", attack: str = "", seed: int = 0
):
    """Of N samples the first so many are right, unbroken at eps 1, and certified there; in a random order."""
    ids = np.random.default_rng(seed).permutation(N)
    return pa.table(
        {
            "defense": [defense] * N,
            "attack": [attack] * N,
            "id": ids,
            "clean_correct": ids < right,
            "breaking_distance": np.where(ids < robust, np.inf, np.where(ids < right, 0.9, 0.0)),
            "radius": np.where(ids < certified, 1.1, 0.2),
        }
    )


def compare(before: pa.Table, after: pa.Table, *, undefended: str = "net") -> list[str]:
    found = find_worsenings(before, after, eps=(1.0,), norm="l2", dimension=64, undefended=undefended)
    return [str(regression) for regression in found]


def test_the_same_is_no_regression_in_any_order() -> None:
    assert compare(outcomes(), outcomes(seed=1)) == []


def test_a_few_samples_are_noise() -> None:
    assert compare(outcomes(), outcomes(right=188, robust=117, certified=58)) == []


@pytest.mark.parametrize(
    ("worse", "named"),
    [
        ({"right": 170}, "otad: standard accuracy went from 95.0% to 85.0% of 200 samples"),
        ({"robust": 90}, "otad: worst case at eps 1 went from 60.0% to 45.0% of 200 samples"),
        ({"certified": 30}, "otad: certified accuracy at eps 1 went from 30.0% to 15.0% of 200 samples"),
    ],
)
def test_what_became_worse_is_named_alone(worse: dict, named: str) -> None:
    (found,) = compare(outcomes(), outcomes(**worse))
    assert found.startswith(named)
    assert compare(outcomes(**worse), outcomes()) == []


def test_an_attack_that_became_weaker_shows_on_the_undefended_net() -> None:
    def net(square: int) -> pa.Table:
        """All attacks together stay as strong as the strongest."""
        return pa.concat_tables(
            [outcomes(robust=0), outcomes(robust=0, attack="pgd"), outcomes(robust=square, attack="square")]
        )

    (found,) = compare(net(40), net(70), undefended="otad")
    assert found.startswith("otad: weaker attack: square at eps 1, robust went from 20.0% to 35.0%")
    assert compare(net(70), net(40), undefended="otad") == []


def test_other_samples_and_missing_defenses_are_refused() -> None:
    with pytest.raises(InputError, match="different samples"):
        compare(outcomes(), outcomes().slice(0, 150))
    with pytest.raises(InputError, match="no outcomes of otad"):
        compare(outcomes(), outcomes(defense="knn"))
