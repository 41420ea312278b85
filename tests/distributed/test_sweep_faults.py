"""A sweep killed in the middle: finished cohorts are not computed again, and its records are those of another run."""

import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from digits_jobs import descendants, is_running, job_command, run_job, wait_for

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.slow]

PRESET = ["--training.epochs", "3", "--neighbors", "3"]
OPTIONS = [*PRESET, "--samples", "360", "--defense", "otad", "--attacks", "square_2000", "--costly-attacks"]
OPTIONS += ["noise", "--eps", "0.3", "--num-actors", "2"]


def shards(storage: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in storage.glob("digits/attacks/*/shard-*")}


def records(storage: Path) -> dict[str, list]:
    tables = {path.relative_to(storage): pq.read_table(path, partitioning=None) for path in map(Path, shards(storage))}
    return {str(path): table.to_pylist() for path, table in tables.items()}


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for storage in (whole, broken):
        run_job("build_memory.py", *PRESET, "--storage", str(storage))
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            job_command("attack_sweep.py", *OPTIONS, "--storage", str(broken)), stdout=log, stderr=log
        )
    wait_for(lambda: len(shards(broken)) >= 3, 120)
    orphans = [process for process, title in descendants(driver.pid).items() if "ShardActor" in title]
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    wait_for(lambda: not any(is_running(process) for process in orphans), 60)
    kept = shards(broken)
    result = run_job("attack_sweep.py", *OPTIONS, "--storage", str(broken))
    finished = shards(broken)
    assert len(kept) < len(finished)
    assert {path: finished[path] for path in kept} == kept
    unbroken = run_job("attack_sweep.py", *OPTIONS, "--storage", str(whole))
    assert result["brackets"] == unbroken["brackets"]
    assert str(records(broken)) == str(records(whole))
    assert not list(broken.rglob("*.tmp.*"))
