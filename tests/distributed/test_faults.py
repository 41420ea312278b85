"""Real processes killed in mid-shard: every id exactly once after a rerun, and nothing computed twice."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from digits_jobs import ROWS, descendants, is_running, job_command, read_labels, run_job, wait_for

pytestmark = pytest.mark.xdist_group("processes")

# A conic solver takes about 10 ms a row, so a kill falls into the middle of a shard.
PRESET_OPTIONS = ["--training.epochs", "3", "--neighbors", "3"]
OPTIONS = [*PRESET_OPTIONS, "--solver", "clarabel", "--rows-per-shard", "48", "--num-actors", "2"]
SHARDS = -(-ROWS // 48)


def actors(driver: int) -> list[int]:
    found = [process for process, title in descendants(driver).items() if "ShardActor" in title]
    assert len(found) == 2
    return found


def start(storage: Path, log: Path) -> subprocess.Popen:
    with log.open("w") as output:
        return subprocess.Popen(
            job_command("label_qcp.py", *OPTIONS, "--storage", str(storage)), stdout=output, stderr=output
        )


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    run_job("build_memory.py", *PRESET_OPTIONS, "--storage", str(tmp_path))
    return tmp_path


def shards(storage: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in storage.glob("digits/labels/*/shard-*")}


def test_driver_and_then_an_actor_are_killed(storage: Path, tmp_path: Path) -> None:
    driver = start(storage, tmp_path / "first.log")
    wait_for(lambda: len(shards(storage)) >= 2, 90)
    orphans = actors(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    wait_for(lambda: not any(is_running(process) for process in orphans), 60)
    kept = shards(storage)
    assert 2 <= len(kept) < SHARDS

    driver = start(storage, tmp_path / "second.log")
    wait_for(lambda: len(shards(storage)) >= len(kept) + 2, 90)
    os.kill(actors(driver.pid)[0], signal.SIGKILL)
    assert driver.wait(timeout=150) == 0, (tmp_path / "second.log").read_text()[-3000:]

    finished = shards(storage)
    assert len(finished) == SHARDS
    assert {path: finished[path] for path in kept} == kept
    labels = read_labels(next(iter(kept)).parent)
    assert sorted(labels["id"].to_pylist()) == sorted(set(labels["id"].to_pylist()))
    assert len(labels) == ROWS
    assert not list(next(iter(kept)).parent.glob(".*.tmp.*"))
