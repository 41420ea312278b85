"""A job whose server hangs, the replay to a real server, and the job again."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest

from helpers.digits_jobs import QUICK_OPTIONS, descendants, job_command, run_job, wait_for
from otad_ray.jobs.cli import check_main
from otad_ray.jobs.log_pending import LogPendingConfig, run_log_pending


def run(script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        job_command(script, *options),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address, without scheme, of a real server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    place = tmp_path / "server"
    place.mkdir()
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", address.rpartition(":")[2], "--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(place / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (place / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=place, stdout=log, stderr=log)

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{address}/health", timeout=1) as answer:
            return answer.status == 200
        return False

    try:
        wait_for(answers, 120)
        yield address
    finally:
        below = descendants(process.pid)
        process.terminate()
        process.wait(timeout=30)
        for child in below:
            with suppress(ProcessLookupError):
                os.kill(child, 9)


@pytest.mark.slow
def test_a_hanging_server_costs_seconds_and_the_replay_logs_everything_once(server: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "root")
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        uri = f"http://user:secret@127.0.0.1:{hanging.getsockname()[1]}"
        done = run("build_memory.py", *QUICK_OPTIONS, OTAD_STORAGE=storage, MLFLOW_TRACKING_URI=uri)
        refused = run("log_pending.py", "--storage", storage, "--tracking-uri", uri)
    assert done.returncode == 0, done.stderr
    assert (refused.returncode, json.loads(refused.stdout)["pending"]) == (2, 2)
    real = f"http://user:secret@{server}"
    started = [
        subprocess.Popen(
            job_command("log_pending.py", "--storage", storage, "--tracking-uri", real),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert sum(json.loads(output)["logged"] for output, _ in outputs) == 2
    client = mlflow.MlflowClient(tracking_uri=f"http://{server}")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert sorted(run.data.tags["otad.kind"] for run in runs) == ["backbone", "memory"]
    assert all(client.list_artifacts(run.info.run_id) for run in runs)
    # The job run again finds what the replay logged.
    again = run("build_memory.py", *QUICK_OPTIONS, OTAD_STORAGE=storage, MLFLOW_TRACKING_URI=real)
    manifests = [json.loads(path.read_text()) for path in Path(storage).glob("digits/*/*/manifest.json")]
    assert {manifest["run_id"] for manifest in manifests} == {run.info.run_id for run in runs}
    # And a new result logged at once shows no credentials either.
    other = run("build_memory.py", *QUICK_OPTIONS, OTAD_STORAGE=f"{storage}2", MLFLOW_TRACKING_URI=real)
    assert len(client.search_runs([client.get_experiment_by_name("digits").experiment_id])) == 4
    for finished in (done, refused, again, other):
        assert "secret" not in finished.stdout + finished.stderr
        assert len(finished.stdout.splitlines()) == 1
    assert "secret" not in "".join(text for output in outputs for text in output)


@pytest.mark.slow
def test_labels_wait_and_are_logged_when_a_server_answers(tmp_path: Path) -> None:
    started = time.monotonic()
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        uri = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        result = run_job("label_qcp.py", *QUICK_OPTIONS, OTAD_STORAGE=str(tmp_path), MLFLOW_TRACKING_URI=uri)
    seconds = time.monotonic() - started
    assert result["run_id"] is None
    assert len(list((tmp_path / "pending").glob("*.json"))) == 3
    replayed = run_job("log_pending.py", OTAD_STORAGE=str(tmp_path))
    assert (replayed["logged"], replayed["pending"]) == (3, 0)
    again = run_job("label_qcp.py", *QUICK_OPTIONS, OTAD_STORAGE=str(tmp_path))
    assert again["run_id"] in replayed["run_ids"]
    assert again["rows_computed"] == 0
    print(f"label job with a hanging server: {seconds:.1f} s")


def test_pending_results_end_with_two_and_bad_options_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pending").mkdir()
    (tmp_path / "pending" / "damaged.json").write_text("{")
    codes = []
    for options in (["--storage", str(tmp_path)], ["--storage", "/proc/otad"], ["--storige", "x"]):
        monkeypatch.setattr(sys, "argv", ["log_pending.py", *options])
        with pytest.raises(SystemExit) as end:
            check_main(LogPendingConfig, run_log_pending, description="A job.", failed=lambda found: found["pending"])
        codes.append(end.value.code)
    assert codes == [2, 1, 1]
    assert json.loads(capsys.readouterr().out.splitlines()[0])["pending"] == 1
