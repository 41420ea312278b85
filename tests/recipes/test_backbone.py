"""A preset's backbone: nets that do not fit into memory are refused before anything is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.digits_jobs import quick_preset
from otad_ray import machine
from otad_ray.errors import InputError
from otad_ray.models import BackboneConfig
from otad_ray.options import JobConfig
from otad_ray.presets import Preset
from otad_ray.recipes import backbone
from otad_ray.recipes.workspace import Workspace


def write_wide(folder: Path, width: int) -> Preset:
    """Write samples of many values, and return their preset."""
    x = np.random.default_rng(0).random((12, width), dtype=np.float32)
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x), "label": np.arange(12) % 2})
        pq.write_table(table.replace_schema_metadata({"part": part}), folder / part / "a.parquet")
    return replace(quick_preset(), data_set=str(folder), backbone=BackboneConfig())


def never_train(task: object) -> None:
    raise AssertionError("trained")


def test_a_net_for_wide_samples_is_refused_with_the_option_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 2**34)
    preset = write_wide(tmp_path / "wide", 36_000)
    workspace = Workspace(JobConfig(preset=preset, storage=str(tmp_path / "root")))
    with pytest.raises(InputError) as refused:
        backbone.ensure_backbone(workspace, never_train)
    assert "weights of 51.8 GB" in str(refused.value)
    assert "36000 values each) need 155.5 GB, 17.2 GB are available" in str(refused.value)
    assert "set --backbone.hidden: with 512 it is 2.2 GB" in str(refused.value)


def test_a_net_with_a_smaller_inner_width_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 2**34)
    preset = replace(write_wide(tmp_path / "wide", 36_000), backbone=BackboneConfig(hidden=64))
    backbone.check_memory(Workspace(JobConfig(preset=preset, storage=str(tmp_path / "root"))))


def test_the_manifest_says_how_many_rows_repeat(tmp_path: Path) -> None:
    preset = write_wide(tmp_path / "small", 4)
    manifest = backbone.BackboneRecipe(
        Workspace(JobConfig(preset=preset, storage=str(tmp_path / "root")))
    ).manifest_fields
    assert (manifest["repeated_rows"], manifest["test_rows_in_train"]) == (12, 12)
