"""Runs that say what was done, once for each result, whatever happened to the server meanwhile."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import mlflow
import pytest

from otad_ray.jobs.log_pending import LogPendingConfig, run_log_pending
from otad_ray.locks import one_at_a_time
from otad_ray.tracking import (
    DataRecord,
    RunRecord,
    default_tracking_uri,
    latest_run,
    pending_files,
    redacted,
    runs,
    runs_link,
    store,
    track,
)

RECORD = RunRecord(
    experiment="digits",
    kind="backbone",
    result={"directory": Path("/somewhere")},
    outcome={"loss": 0.5, "missing": float("nan")},
    params={"training": {"epochs": 3}, "solver": "dual"},
    metrics={"loss": 0.5},
    series={"epoch_loss": [(1, 2.0), (2, 1.0)]},
    data=DataRecord(name="digits/train", digest="abc", origin="scikit-learn", rows=7),
)

DEAD = "http://user:secret@127.0.0.1:9"


@pytest.fixture
def record(request: pytest.FixtureRequest, root: Path) -> RunRecord:
    artifact = root / "results" / f"{request.node.name}.json"
    artifact.parent.mkdir(exist_ok=True)
    artifact.write_text("{}")
    return replace(RECORD, experiment=request.node.name, artifacts=(artifact,))


@pytest.fixture(autouse=True)
def _nothing_pending(root: Path) -> Iterator[None]:
    yield
    for path in pending_files(root):
        path.unlink()


def log(record: RunRecord, root: Path) -> str | None:
    return track(record, tracking_uri=default_tracking_uri(None, root), root=root)


def replay_all(root: Path) -> dict:
    return run_log_pending(LogPendingConfig(storage=str(root)))


def client(root: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=default_tracking_uri(None, root))


def logged(record: RunRecord, root: Path) -> list[str]:
    experiment = client(root).get_experiment_by_name(record.experiment)
    return [run.info.run_id for run in client(root).search_runs([experiment.experiment_id])]


def test_a_run_in_sqlite(record: RunRecord, root: Path) -> None:
    run_id = log(record, root)
    run = client(root).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.epochs": "3", "solver": "dual"}
    assert run.data.metrics == {"loss": 0.5, "epoch_loss": 1.0}
    assert run.data.tags["otad.kind"] == "backbone"
    history = client(root).get_metric_history(run_id, "epoch_loss")
    assert [(point.step, point.value) for point in history] == [(1, 2), (2, 1)]
    assert run.inputs.dataset_inputs[0].dataset.digest == "abc"
    assert (root / "mlartifacts").is_dir()
    assert [item.path for item in client(root).list_artifacts(run_id)] == [record.artifacts[0].name]
    assert not pending_files(root)


def test_run_has_the_name_the_source_and_the_times_of_its_job(record: RunRecord, root: Path) -> None:
    told = replace(record, name="backbone fc_resnet", job="train_backbone", started=1000.5, finished=2000.25)
    run = client(root).get_run(log(told, root))
    assert run.info.run_name == "backbone fc_resnet"
    assert (run.info.start_time, run.info.end_time) == (1_000_500, 2_000_250)
    assert run.data.tags["mlflow.source.name"] == "jobs/train_backbone.py"
    assert run.data.tags["mlflow.source.type"] == "JOB"
    (point,) = client(root).get_metric_history(run.info.run_id, "loss")
    assert point.timestamp == 2_000_250


def test_replayed_run_has_the_times_of_its_job_and_not_of_the_replay(record: RunRecord, root: Path) -> None:
    told = replace(record, name="backbone fc_resnet", job="train_backbone", started=1000.5, finished=2000.25)
    assert track(told, tracking_uri=DEAD, root=root) is None
    (run_id,) = replay_all(root)["run_ids"]
    run = client(root).get_run(run_id)
    assert (run.info.start_time, run.info.end_time) == (1_000_500, 2_000_250)
    assert run.info.run_name == "backbone fc_resnet"
    assert run.data.tags["mlflow.source.name"] == "jobs/train_backbone.py"


def test_pending_record_of_an_older_version_is_replayed(record: RunRecord, root: Path) -> None:
    assert track(replace(record, started=1.0), tracking_uri=DEAD, root=root) is None
    (path,) = pending_files(root)
    written = json.loads(path.read_text())
    for name in ("name", "job", "started", "finished"):
        del written["record"][name]
    path.write_text(json.dumps({**written, "finished": 86400.0}))
    (run_id,) = replay_all(root)["run_ids"]
    run = client(root).get_run(run_id)
    assert run.info.run_name.startswith("backbone-19700")
    assert run.info.start_time == run.info.end_time == 86_400_000
    assert "mlflow.source.name" not in run.data.tags


def test_experiment_is_one_of_machine_learning_and_has_a_link_to_its_runs(record: RunRecord, root: Path) -> None:
    run_id = log(record, root)
    found = client(root).get_experiment_by_name(record.experiment)
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    page = f"http://127.0.0.1:5000/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"
    assert runs_link(default_tracking_uri(None, root), run_id) == page


@pytest.mark.parametrize(
    ("kind", "kept"), [(None, "custom_model_development"), ("genai_development", "genai_development")]
)
def test_existing_experiment_gets_a_kind_unless_it_has_one(
    kind: str | None, kept: str, record: RunRecord, root: Path
) -> None:
    tags = {} if kind is None else {"mlflow.experimentKind": kind}
    client(root).create_experiment(record.experiment, artifact_location=(root / "mlartifacts").as_uri(), tags=tags)
    assert log(record, root)
    assert client(root).get_experiment_by_name(record.experiment).tags["mlflow.experimentKind"] == kept


def test_the_same_result_keeps_its_run_and_another_outcome_gets_a_new_one(record: RunRecord, root: Path) -> None:
    first = log(record, root)
    assert log(replace(record, metrics={"loss": 0.5, "seconds": 9}), root) == first
    changed = log(replace(record, outcome={"loss": 0.4}), root)
    elsewhere = log(replace(record, result={"directory": Path("/elsewhere")}), root)
    assert len({first, changed, elsewhere}) == 3
    assert set(logged(record, root)) == {first, changed, elsewhere}


def test_a_replayed_run_is_that_of_a_server_that_answered(record: RunRecord, root: Path) -> None:
    assert track(record, tracking_uri=DEAD, root=root) is None
    (path,) = pending_files(root)
    assert "secret" not in path.read_text()
    assert json.loads(path.read_text())["record"]["artifacts"] == [f"results/{record.artifacts[0].name}"]
    result = replay_all(root)
    assert (result["logged"], result["already"], result["pending"]) == (1, 0, 0)
    (run_id,) = result["run_ids"]
    other = replace(record, result={"directory": Path("/elsewhere")})
    expected, found = (client(root).get_run(name) for name in (log(other, root), run_id))
    assert (found.data.params, found.data.metrics) == (expected.data.params, expected.data.metrics)
    assert found.data.tags.keys() == expected.data.tags.keys()
    assert found.inputs.dataset_inputs[0].dataset.name == "digits/train"
    assert found.info.start_time < expected.info.start_time
    # The job run again finds it.
    assert log(record, root) == run_id
    assert replay_all(root) == {**result, "logged": 0, "run_ids": []}


def test_pending_record_that_came_first_is_kept_and_an_older_outcome_is_dropped(record: RunRecord, root: Path) -> None:
    for told in (record, replace(record, metrics={"loss": 9})):
        track(told, tracking_uri=DEAD, root=root)
    (path,) = pending_files(root)
    assert json.loads(path.read_text())["record"]["metrics"] == {"loss": 0.5}
    track(replace(record, outcome={"loss": 0.4}), tracking_uri=DEAD, root=root)
    assert len(pending_files(root)) == 1
    assert pending_files(root) != [path]


def test_logging_that_dies_midway_is_superseded(record: RunRecord, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_terminated", lambda *arguments: 1 / 0)
        assert log(record, root) is None
    (left,) = logged(record, root)
    store._refused.clear()
    (run_id,) = replay_all(root)["run_ids"]
    assert logged(record, root) == [run_id]
    assert run_id != left


def test_replays_and_the_job_itself_at_once_make_one_run(record: RunRecord, root: Path) -> None:
    track(record, tracking_uri=DEAD, root=root)
    found: list[str | None] = []
    threads = [Thread(target=lambda: found.append(log(record, root))) for _ in range(2)]
    threads += [Thread(target=lambda: found.extend(replay_all(root)["run_ids"])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(logged(record, root)) == 1
    assert set(found) == set(logged(record, root))


def test_a_result_that_another_process_is_logging_waits(
    record: RunRecord, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_JOB_SECONDS", "_REPLAY_SECONDS"):
        monkeypatch.setattr(runs, name, 0.05)
    with one_at_a_time(root / "pending" / f".{record.result_id}.lock"):
        assert log(record, root) is None
        assert replay_all(root)["pending"] == 1
    assert replay_all(root)["logged"] == 1


def test_damaged_files_and_lost_artifacts_are_named_and_the_rest_is_logged(
    record: RunRecord, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    night = root / "nightly" / "2026-01-01"
    lost = night / "lost.json"
    night.mkdir(parents=True)
    lost.touch()
    track(record, tracking_uri=DEAD, root=root)
    track(replace(record, kind="lost", artifacts=(lost,)), tracking_uri=DEAD, root=night)
    track(replace(record, kind="night", artifacts=()), tracking_uri=DEAD, root=night)
    damaged = root / "pending" / "0-damaged.json"
    damaged.write_text('{"record": {')
    lost.unlink()
    result = replay_all(root)
    assert (result["logged"], result["pending"]) == (2, 2)
    assert f"{damaged} cannot be read" in caplog.text
    assert f"{lost} is gone" in caplog.text
    lost.touch()
    assert replay_all(root)["logged"] == 1


def test_a_record_that_is_refused_does_not_stop_the_others(record: RunRecord, root: Path) -> None:
    bad = replace(record, kind="bad", metrics={"no name for a metric?": 1.0})
    assert log(bad, root) is None
    assert log(record, root)
    assert len(pending_files(root)) == 1


def test_the_newest_run_that_is_not_ones_own(record: RunRecord, root: Path, tmp_path: Path) -> None:
    nights = [
        log(replace(record, result={"night": name}, tags={"otad.good": "true", "otad.night": name}), root)
        for name in ("first", "second")
    ]
    uri, tags = default_tracking_uri(None, root), {"otad.good": "true"}
    newest = latest_run(uri, record.experiment, tags, tmp_path, unlike={"otad.night": "third"})
    assert newest.run_id == nights[1]
    assert (newest.artifacts / record.artifacts[0].name).read_text() == "{}"
    assert latest_run(uri, record.experiment, tags, tmp_path, unlike={"otad.night": "second"}).run_id == nights[0]
    assert latest_run(uri, "nowhere", tags, tmp_path, unlike={}) is None


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


@pytest.mark.slow
def test_processes_that_open_a_new_store_together_all_log(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from otad_ray.tracking import RunRecord, default_tracking_uri, track
root = Path({str(tmp_path)!r})
record = RunRecord(experiment="digits", kind="labels", result={{"of": os.getpid()}}, params={{}}, metrics={{"rows": 1}})
assert track(record, tracking_uri=default_tracking_uri(None, root), root=root)
"""
    started = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
