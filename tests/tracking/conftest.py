"""Each test meets the stores as a new process does."""

import pytest

from otad_ray.tracking import store


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test finds its stores anew, as a process does."""
    monkeypatch.setattr(store, "_refused", set())
    monkeypatch.setattr(store, "_deleted", set())
    monkeypatch.setattr(store, "_spent", {})
