"""Files that appear whole and once, also where the file system or the user's permissions are in the way."""

import errno
import json
import os
from pathlib import Path

import pytest

from otad_ray.artifacts import storage_root, write_json, write_json_once
from otad_ray.errors import InputError


def refuse(number: int):
    """Return a function that fails as the system does with an error of this number."""

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_exactly_one_of_several_writers_writes_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EOPNOTSUPP))
    path = tmp_path / "manifest.json"
    assert write_json_once(path, {"writer": "first"})
    assert not write_json_once(path, {"writer": "second"})
    assert json.loads(path.read_text()) == {"writer": "first"}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_that_another_process_wrote_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"

    def lose_the_race(*arguments: object) -> None:
        path.write_text("{}")
        refuse(errno.EOPNOTSUPP)()

    monkeypatch.setattr(os, "link", lose_the_race)
    assert not write_json_once(path, {"writer": "second"})
    assert path.read_text() == "{}"


def test_a_file_that_may_not_be_written_is_refused_by_name_and_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "replace", refuse(errno.EACCES))
    with pytest.raises(InputError, match=r"a\.json cannot be written \(.*a is drwxr-xr-x of user .*, and this is user"):
        write_json(tmp_path / "a" / "a.json", {})


def test_storage_root_without_permission_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "touch", refuse(errno.EACCES))
    with pytest.raises(
        InputError, match=r"cannot be written \(Permission denied; .* is d[rwx-]{9} of user .*--storage"
    ):
        storage_root(tmp_path)
