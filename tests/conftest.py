"""Every test runs on one thread, away from the user's storage, data and tracking server."""

import json
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

# Libraries read these when they are imported. Small matrices take several times as long on several threads, and two
# processes of tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Ray's workers are nice by default, and starve beside the tests that run at the same time.
os.environ.setdefault("RAY_worker_niceness", "0")

import torch

torch.set_num_threads(1)


# What takes longest starts first, so that both workers end together; a file is run by one worker. The first file makes
# the evaluation that others share, while the other worker does what needs none.
_FIRST = ("recipes/test_cip_net.py", "training", "jobs", "recipes", "tracking", "certification", "sweep", "memory")
_TESTS = Path(__file__).parent
# Folders whose tests log runs.
_WITH_STORES = {"chaos", "jobs", "recipes", "sweep", "tracking"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        place = os.path.relpath(item.path, _TESTS)
        return next((order for order, start in enumerate(_FIRST) if place.startswith(start)), len(_FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _isolated_session() -> Iterator[None]:
    """Hide the user's own settings from every test, and from the fixtures that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OTAD_DATA", "OTAD_CAPACITY_WAIT", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="session")
def _storage_roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Names of storage roots. They are not made: most tests write to none, and thousands take minutes to delete."""
    folder = tmp_path_factory.mktemp("storage")
    return (str(folder / str(number)) for number in count())


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, _storage_roots: Iterator[str]) -> None:
    """Give each test a storage root of its own."""
    monkeypatch.setenv("OTAD_STORAGE", next(_storage_roots))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Three CPUs: two actors and the one that Ray Data needs."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _copied_stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy an empty store for each new SQLite file, whose tables MLflow takes seconds to make."""
    if not any(item.path.parent.name in _WITH_STORES for item in request.session.items):
        # The import of MLflow takes seconds too.
        yield
        return
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


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage root for all tests of a process that log runs: each has an experiment of its own in it."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of the run share."""
    folder = tmp_path_factory.getbasetemp()
    # The workers of a run have their folders in one; without workers, what lies above belongs to other runs too.
    return folder.parent if hasattr(request.config, "workerinput") else folder


@pytest.fixture(scope="session")
def _evaluated_once(shared_folder: Path) -> Path:
    """A storage root with an evaluation of OTAD-T and OTAD-T-NN, made once for all processes of the run."""
    from helpers.transformer_jobs import preset
    from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
    from otad_ray.locks import one_at_a_time

    root = shared_folder / "evaluated"
    with one_at_a_time(root.with_suffix(".lock")):
        if not (root / "result.json").exists():
            result = run_evaluation(EvaluateConfig(preset=preset(), storage=str(root), local=True, otad_nn=True))
            (root / "result.json").write_text(json.dumps(result))
    return root


@pytest.fixture(scope="module")
def storage(_evaluated_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root of the module's own, with an evaluation of OTAD-T and OTAD-T-NN in it."""
    return Path(shutil.copytree(_evaluated_once, tmp_path_factory.mktemp("storage") / "root"))


@pytest.fixture(scope="module")
def evaluated(storage: Path) -> dict[str, Any]:
    """What that evaluation returned, with its paths in `storage`."""
    text = (storage / "result.json").read_text()
    return json.loads(text.replace(json.loads(text)["evaluation"].split("/digits_vit/")[0], str(storage)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the chaos suite, where some of it was run: here, since reports come in from other processes."""
    from helpers.chaos_table import Outcome, table

    reports = [report for group in ("passed", "failed") for report in terminalreporter.stats.get(group, [])]
    if outcomes := Outcome.of_reports(reports):
        terminalreporter.section("faults")
        for line in table(outcomes):
            terminalreporter.write_line(line)
