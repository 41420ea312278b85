"""Metrics of jobs: where there is a cluster to tell, what is told, and that a job never suffers from it."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from ray.exceptions import GetTimeoutError

from helpers.digits_jobs import REPOSITORY, wait_for
from helpers.local_servers import Head, find_tool, ray_head
from otad_ray.engine.metrics_actor import JobProgress, Recorder
from otad_ray.monitoring.metrics import JOB_ROWS_DONE, JOB_RUNNING, ROWS, Amount, Metric

AMOUNT = Amount(ROWS, {"kind": "labels", "preset": "digits", "status": "solved"}, 3)


class Told:
    """In place of the cluster's actor: what it was told."""

    def __init__(self) -> None:
        self.amounts: list[Amount] = []
        self.record = self

    def remote(self, amounts: list[Amount]) -> None:
        self.amounts += amounts


def test_a_cluster_of_its_own_has_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "remote", lambda actor: pytest.fail("nobody could look at it"))
    Recorder.open(None).record([AMOUNT])


def test_recorder_reports_a_failure_once_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @property
        def record(self) -> None:
            raise RuntimeError("the actor is gone")

    recorder = Recorder(Broken())
    for _ in range(3):
        recorder.record([AMOUNT])
        recorder.mention([AMOUNT])
    assert [record.message for record in caplog.records] == ["no metrics from here on: RuntimeError: the actor is gone"]


def test_a_slow_actor_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    told, waited = Told(), []

    def too_late(reference: None, timeout: float) -> None:
        waited.append(timeout)
        raise GetTimeoutError

    monkeypatch.setattr(ray, "get", too_late)
    recorder = Recorder(told)
    for _ in range(3):
        recorder.record([AMOUNT])
    assert len(waited) == len(caplog.records) == 1
    assert len(told.amounts) == 3


def test_a_run_that_fails_does_not_run_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(ray, "get", lambda told, timeout: None)

    def values(metric: Metric) -> list[float]:
        return [amount.value for amount in told.amounts if amount.metric is metric]

    with suppress(OSError), JobProgress(Recorder(told), job_name="label_qcp", preset="digits", rows=10) as progress:
        assert values(JOB_RUNNING) == [1]
        progress.advance(4, 2.0)
        raise OSError
    assert values(JOB_RUNNING) == [1, 0]
    assert values(JOB_ROWS_DONE) == [0, 4]


KILL = """
import os, signal, sys, time, ray
from otad_ray.engine.metrics_actor import ACTOR, NAMESPACE, Recorder, record_night
from otad_ray.monitoring.metrics import ROWS, Amount

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
cpus = ray.available_resources()["CPU"]
recorder = Recorder.open(None)
rows = [Amount(ROWS, {"kind": "labels", "preset": "digits", "status": "solved"}, 3)]
recorder.record(rows)
time.sleep(4)
actor = ray.get_actor(ACTOR, namespace=NAMESPACE)
os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
time.sleep(1)
recorder.record(rows)
record_night(None, {"digits": 2}, 1000.0)
assert ray.available_resources()["CPU"] == cpus, "pools need all CPUs"
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Sockets lie below it, and their paths must stay short."""
    with tempfile.TemporaryDirectory(prefix="otad-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def exported(head: Head) -> dict[str, float]:
    """Sums, by name, of what the cluster exports of ours."""
    sums: Counter[str] = Counter()
    for target in json.loads(head.service_discovery.read_text())[0]["targets"]:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("ray_otad"):
                    sums[line.partition("{")[0]] += float(line.rpartition(" ")[2])
    return dict(sums)


@pytest.mark.slow
def test_the_metrics_outlive_drivers_and_their_own_actor(short_folder: Path) -> None:
    with ray_head(short_folder, RAY_metrics_report_interval_ms="1000", PYTHONPATH=str(REPOSITORY)) as head:
        done = subprocess.run(
            [sys.executable, "-c", KILL], env=head.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "no metrics" not in done.stderr
        wait_for(lambda: exported(head).get("ray_otad_nightly_regressions") == 2, 30)
        # Ray drops a gauge that is not set again within twice the interval.
        time.sleep(5)
        assert exported(head) == {
            "ray_otad_rows_total": 6,
            "ray_otad_nightly_regressions": 2,
            "ray_otad_nightly_finished_timestamp_seconds": 1000,
        }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_tool("prometheus") is None, reason="needs prometheus; `make prometheus` fetches it")
def test_a_real_prometheus_shows_what_the_manifests_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "helpers.check_panels"],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'tests'}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("Rows by status") >= 5
    assert done.stdout.endswith("\n0 values differ\n")
