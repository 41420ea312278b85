"""Runs that were tracked before, in an experiment that somebody deleted."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from otad_ray.errors import InputError
from otad_ray.jobs.log_pending import LogPendingConfig, run_log_pending
from otad_ray.tracking import RunRecord, default_tracking_uri, latest_run, track

RECORD = RunRecord(experiment="deleted", kind="labels", result={"of": "first"}, params={}, metrics={"rows": 1})


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = default_tracking_uri(None, root)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_run(track(RECORD, tracking_uri=uri, root=root)).info.experiment_id
    client.delete_experiment(experiment)
    for name in ("second", "third"):
        assert track(replace(RECORD, result={"of": name}), tracking_uri=uri, root=root) is None
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    command = f"experiments restore --experiment-id {experiment}"
    assert f"experiment '{RECORD.experiment}' was deleted in sqlite:" in warning
    assert f"{command}; the results are on disk, and otad log-pending logs them after that" in warning
    with pytest.raises(InputError, match=rf"no earlier runs are known: experiment .* was deleted.*{command}$"):
        latest_run(uri, RECORD.experiment, {}, tmp_path, unlike={})
    assert run_log_pending(LogPendingConfig(storage=str(root)))["pending"] == 2
    client.restore_experiment(experiment)
    assert run_log_pending(LogPendingConfig(storage=str(root)))["logged"] == 2
