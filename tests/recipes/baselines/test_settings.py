"""Changes of the settings that baselines are trained with."""

import pytest

from otad_ray.errors import InputError
from otad_ray.recipes.baselines.settings import parse_changes


def test_values_have_the_type_of_the_setting() -> None:
    changes = parse_changes(("pgd_at.eps=1", "pgd_at.epochs=3", "pgd_at.norm=l2", "soc_plus.gamma=0.5"))
    assert changes == {"pgd_at": {"eps": 1.0, "epochs": 3, "norm": "l2"}, "soc_plus": {"gamma": 0.5}}
    assert isinstance(changes["pgd_at"]["eps"], float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pgd_at", "DEFENSE.SETTING=VALUE"),
        ("pgd_at.eps=", "DEFENSE.SETTING=VALUE"),
        ("pgd.eps=1", "no defense 'pgd' with a training; known: pgd_at"),
        ("median_filter.size=2", "no defense 'median_filter' with a training"),
        ("pgd_at.radius=1", "has no setting 'radius'; known: epochs, batch_size"),
        ("pgd_at.epochs=many", "pgd_at.epochs is an int"),
        ("pgd_at.eps=large", "pgd_at.eps is a float"),
        ("pgd_at.epochs=2.5", "pgd_at.epochs is an int"),
    ],
)
def test_bad_changes_are_refused(given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_changes((given,))
