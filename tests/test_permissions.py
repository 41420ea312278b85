"""Storage roots that several users share: what one may not write is refused by name."""

import os
from pathlib import Path

import pytest

from otad_ray.errors import InputError
from otad_ray.permissions import check_writable


def test_a_folder_of_another_user_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is set here: the superuser, who may run the tests, may write everywhere."""
    (tmp_path / "memory").mkdir(mode=0o755)
    (tmp_path / "labels").mkdir()
    check_writable(tmp_path)
    check_writable(tmp_path / "missing")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "memory")
    with pytest.raises(InputError, match=r"memory cannot be written \(.*memory is drwxr-xr-x of user"):
        check_writable(tmp_path)
