"""Speeds of features along a segment."""

import numpy as np
import pytest
import torch
from torch import Tensor

from otad_ray.errors import InputError
from otad_ray.evaluation.diagnostics.segment import measure_speeds, speed_figure


def test_speeds_of_a_scaling_are_its_factor() -> None:
    class Doubled:
        def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
            return inputs, 2 * inputs.flatten(1), None

    class Featureless:
        def forward_details(self, inputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
            return inputs, None, None

    start, end = torch.zeros(1, 3, 3), torch.ones(1, 3, 3)
    np.testing.assert_allclose(measure_speeds(Doubled(), start, end, 300), np.full(300, 2.0), rtol=1e-4)
    with pytest.raises(InputError, match="Featureless has no features"):
        measure_speeds(Featureless(), start, end, 3)


def test_figure_names_the_defenses_and_the_bound() -> None:
    figure = speed_figure({"otad": np.array([1.0, 300.0]), "otad_global": np.ones(2)}, smoothness=2.0, title="digits")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["otad", "otad_global", "L = 2"]
