"""One storage root for all tests of a process: making a database takes seconds."""

from pathlib import Path

import pytest

from otad_ray.tracking import store


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test finds its stores anew, as a process does."""
    monkeypatch.setattr(store, "_refused", set())
    monkeypatch.setattr(store, "_spent", {})


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test has an experiment of its own in it."""
    return tmp_path_factory.mktemp("root")
