"""The figure of features along a segment: the local form jumps, the global one does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.digits_jobs import quick_preset
from otad_ray.errors import InputError
from otad_ray.jobs.draw_segment import SegmentConfig, run_segment
from otad_ray.jobs.fit_potential import PotentialJobConfig, run_potential_job


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def test_local_features_jump_and_global_ones_do_not(storage: Path) -> None:
    preset = quick_preset()
    preset = replace(preset, potential=replace(preset.potential, smoothness=3.0))
    # Without Ray, which the figure needs only to fit a missing potential.
    run_potential_job(PotentialJobConfig(preset=preset, storage=str(storage), local=True))
    result = run_segment(SegmentConfig(preset=preset, storage=str(storage), to_row=5, steps=150))
    assert Path(result["figure"]).stat().st_size > 5000
    largest = result["largest_speed"]
    assert 0.5 < largest["otad_global"] <= 3.0 * (1 + 1e-3)
    assert largest["otad"] > 3 * largest["otad_global"]
    assert result["mean_speed"]["otad"] < largest["otad"]


def test_refuses_rows_and_steps_that_are_not_there(storage: Path) -> None:
    with pytest.raises(InputError, match="steps >= 1"):
        SegmentConfig(preset=quick_preset(), storage=str(storage), steps=0)
    with pytest.raises(InputError, match="unknown defense"):
        SegmentConfig(preset=quick_preset(), storage=str(storage), defense=("magic",))
    with pytest.raises(InputError, match="to_row must be 0 to 359"):
        run_segment(SegmentConfig(preset=quick_preset(), storage=str(storage), to_row=5000))
    with pytest.raises(InputError, match="two different samples"):
        run_segment(SegmentConfig(preset=quick_preset(), storage=str(storage), to_row=0))
