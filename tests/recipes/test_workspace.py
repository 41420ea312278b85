"""A preset's place in a storage root, which may be another user's."""

import os
from pathlib import Path

import pytest

from helpers.digits_jobs import quick_preset
from otad_ray.errors import InputError
from otad_ray.options import JobConfig
from otad_ray.recipes.workspace import Workspace


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
