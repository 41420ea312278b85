"""Configurations that a training loop refuses."""

import pytest

from otad_ray.errors import InputError
from otad_ray.training import LoopConfig
from otad_ray.training.baselines.linf_dist import LinfDistSettings
from otad_ray.training.baselines.soc_plus import SocSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "unknown precision 'float16'; known: float32, bfloat16"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; known: sgd, adamw"),
        ({"epochs": 0}, "need epochs >= 1, got 0"),
        ({"learning_rate": float("nan")}, "need a finite learning_rate >= 0, got nan"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopConfig(**changes)


@pytest.mark.parametrize("settings", [SocSettings, LinfDistSettings])
def test_precision_that_would_be_ignored_is_refused(settings: type[LoopConfig]) -> None:
    with pytest.raises(InputError, match=r"need precision = float32, got 'bfloat16': .*; leave precision out"):
        settings(precision="bfloat16")
