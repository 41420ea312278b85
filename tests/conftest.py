"""Every test runs on one thread, away from the user's storage, data and tracking server."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
# Ray's workers are nice by default, and starve beside the tests that run at the same time.
os.environ.setdefault("RAY_worker_niceness", "0")


# Files that wait for real processes take longest: they start first. A file is run by one worker, whose cluster and
# module's fixtures its tests share.
_FIRST = ("chaos", "cluster", "recipes", "jobs", "engine", "sweep", "tracking", "training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return _FIRST.index(folder) if folder in _FIRST else len(_FIRST)

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("OTAD_DATA", "OTAD_CAPACITY_WAIT", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTAD_STORAGE", str(tmp_path_factory.mktemp("storage")))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Three CPUs: two actors and the one that Ray Data needs."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy an empty store for each new SQLite file, whose tables MLflow takes seconds to make."""
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
def _evaluated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root with an evaluation of OTAD-T and OTAD-T-NN, made once for all processes of the run."""
    from helpers.transformer_jobs import preset
    from otad_ray.artifacts import one_at_a_time
    from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation

    root = tmp_path_factory.getbasetemp().parent / "evaluated"
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
