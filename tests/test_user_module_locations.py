"""The names `path/to/file.py:name` that users give."""

from pathlib import Path

import pytest

from otad_ray.errors import InputError
from otad_ray.user_module import absolute_location, split_location

FUNCTION = "a function"


def test_locations_are_split_and_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert split_location("mine.py:build", expected=FUNCTION) == (tmp_path / "mine.py", "build")
    assert absolute_location("./mine.py:build", expected=FUNCTION) == f"{tmp_path}/mine.py:build"
    assert split_location(f"{tmp_path.as_uri()}/mine.py:build", expected=FUNCTION) == (tmp_path / "mine.py", "build")
    for location, message in (
        ("mine.py", "has no name of Python's after a colon; need path/to/file.py:name, a function"),
        ("mine.py:not a name", "has no name of Python's after a colon"),
        ("nowhere.py:build", "there is no file .*/nowhere.py"),
        ("~nobody-of-this-name/mine.py:build", "give an absolute path"),
        ("s3://bucket/mine.py:build", "a shared POSIX path is needed"),
        ("mine.txt:build", r"is no Python file; its name must end with \.py"),
    ):
        with pytest.raises(InputError, match=message):
            split_location(location, expected=FUNCTION)
