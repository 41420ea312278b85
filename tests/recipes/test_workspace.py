"""A preset in a storage root: its data set is described first, and the root may be another user's."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.digits_jobs import quick_preset
from otad_ray.errors import InputError
from otad_ray.options import JobConfig
from otad_ray.recipes.workspace import Workspace


def test_the_data_set_is_described_once_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pa.table({"a": np.arange(40.0) // 2, "note": ["n"] * 40, "label": np.arange(40) % 2})
    pq.write_table(table, tmp_path / "a.parquet")
    preset = replace(quick_preset(), data_set=str(tmp_path))
    workspace = Workspace(JobConfig(preset=preset, storage=str(tmp_path / "root")))
    with caplog.at_level(logging.INFO):
        assert len(workspace.rows("train")) == 32
        workspace.vary(replace(preset, name="variant")).rows("test")
    said = [record.message for record in caplog.records if record.message.startswith("data set ")]
    assert len(said) == 1
    assert "train 32, validation 3, test 8" in said[0]
    assert "WARNING   not read: note (string)" in said[0]
    assert workspace.description.repeated_rows == 20


def test_a_root_with_folders_of_another_user_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser, who may run the tests, may write everywhere: what the system says is set here."""
    (tmp_path / "digits" / "memory").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "memory")
    with pytest.raises(InputError, match="digits/memory cannot be written"):
        Workspace(JobConfig(preset=quick_preset(), storage=str(tmp_path)))


@pytest.mark.parametrize("uri", ["./mlruns", "localhost:5000"])
def test_a_tracking_uri_that_takes_no_runs_is_refused_before_any_work(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tracking URI"):
        Workspace(JobConfig(preset=quick_preset(), storage=str(tmp_path), tracking_uri=uri))
