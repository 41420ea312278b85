"""Tracking: runs that say what was done, and servers that cannot hurt."""

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from otad_ray.tracking import DataRecord, RunRecord, default_tracking_uri, redacted, track

RECORD = RunRecord(
    experiment="digits",
    kind="backbone",
    params={"training": {"epochs": 3}, "solver": "dual"},
    metrics={"loss": 0.5},
    series={"epoch_loss": [(1, 2.0), (2, 1.0)]},
    data=DataRecord(name="digits/train", digest="abc", origin="scikit-learn", rows=7),
)


def test_a_run_in_sqlite(tmp_path: Path) -> None:
    artifact = tmp_path / "manifest.json"
    artifact.write_text("{}")
    record = RunRecord(**{**vars(RECORD), "artifacts": (artifact,)})
    uri = default_tracking_uri(None, tmp_path)
    run_id = track(record, tracking_uri=uri, root=tmp_path)
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert run.data.params == {"training.epochs": "3", "solver": "dual"}
    assert run.data.metrics == {"loss": 0.5, "epoch_loss": 1.0}
    assert run.data.tags["otad.kind"] == "backbone"
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "epoch_loss")] == [(1, 2), (2, 1)]
    assert run.inputs.dataset_inputs[0].dataset.digest == "abc"
    assert (tmp_path / "mlartifacts").is_dir()
    assert [item.path for item in client.list_artifacts(run_id)] == ["manifest.json"]


@pytest.mark.parametrize("answers", [False, True])
def test_a_dead_or_hanging_server_costs_seconds(
    answers: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            # The kernel accepts connections that nobody ever answers.
            server.listen()
        uri = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            assert track(RECORD, tracking_uri=uri, root=tmp_path) is None
        assert time.monotonic() - started < 30
        started = time.monotonic()
        assert track(RECORD, tracking_uri=uri, root=tmp_path) is None
        assert time.monotonic() - started < 1
    assert "not tracked" in caplog.text
    assert "secret" not in caplog.text


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri("sqlite:///runs.db", Path("/x")) == f"sqlite:///{tmp_path / 'runs.db'}"
    assert default_tracking_uri("http://host", Path("/x")) == "http://host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert default_tracking_uri(None, Path("/x")) == "http://other"
    assert redacted("https://me:pw@host:5000/path") == "https://***@host:5000/path"
    assert redacted("postgresql://h/db?user=me&password=pw") == "postgresql://h/db?***"
    assert redacted("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert default_tracking_uri("databricks", Path("/x")) == "databricks"


def test_processes_that_open_a_new_store_together_all_log(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from otad_ray.tracking import RunRecord, default_tracking_uri, track
root = Path({str(tmp_path)!r})
record = RunRecord(experiment="digits", kind="labels", params={{}}, metrics={{"rows": 1}})
assert track(record, tracking_uri=default_tracking_uri(None, root), root=root)
"""
    started = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
