"""Words for the messages of errors."""

import pytest
from torch import nn

from otad_ray.errors import name_type


@pytest.mark.parametrize(("value", "words"), [(3, "an int"), (0.5, "a float"), (nn.Linear(1, 1), "a Linear")])
def test_types_have_their_article(value: object, words: str) -> None:
    assert name_type(value) == words
