"""One local cluster for the jobs that run inside the test process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray


@pytest.fixture(scope="session")
def cluster(_copied_stores: None) -> Iterator[None]:
    """Three CPUs: two actors and the one that Ray Data needs."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def _copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes seconds for the tables of a new SQLite file: it makes one, and others are copies of it."""
    from mlflow.store.db import utils

    first = tmp_path_factory.mktemp("mlflow") / "empty.db"
    make_tables = utils._initialize_tables

    def copy(engine) -> None:
        if not first.exists():
            make_tables(engine)
            shutil.copy(engine.url.database, first)
            return
        engine.dispose()
        shutil.copy(first, Path(engine.url.database))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield
