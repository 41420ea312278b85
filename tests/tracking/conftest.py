"""One storage root for all tests of a process: making a database takes seconds."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test has an experiment of its own in it."""
    return tmp_path_factory.mktemp("root")
