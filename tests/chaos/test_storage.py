"""Disks that are full or read-only, and files that a crash left: said in a line, and mended by the same command."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.chaos_disk import Disk
from helpers.chaos_jobs import LABELS, PRESET, Driver, Job, leave_temporary, run_here, wait_for_shards
from helpers.chaos_verdict import Verdict, temporaries
from otad_ray.errors import RetryableError
from otad_ray.jobs import cli
from otad_ray.jobs.build_memory import run_memory_build
from otad_ray.memory import NeighborMemory
from otad_ray.options import JobConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_FULL = "No space left on device"
_READ_ONLY = "Read-only file system"


def said_in_a_line(text: str, reason: str, place: Path) -> None:
    """What a person reads: where, why, and what to do; nothing of the code."""
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith(f"error: {place}")
    assert reason in last
    assert "run the same command again: what is finished is kept" in last


@pytest.fixture
def on_disk(trained: Path, disk: Disk) -> Path:
    """The trained preset on a disk of its own."""
    return Path(shutil.copytree(trained, disk.place / "root"))


def goes_on_from(kept: dict[Path, int], job: Job, storage: Path, head: str) -> None:
    """The same command finishes the job, and leaves the shards that were there alone."""
    with Driver(job, storage, head) as driver:
        assert driver.finish() == 0, driver.text()
    now = job.shards(storage)
    assert {path: now[path] for path in kept} == kept
    assert len(now) > len(kept)


def test_a_disk_full_while_a_shard_is_written(job: Job, on_disk: Path, disk: Disk, head: str, verdict: Verdict) -> None:
    with Driver(job, on_disk, head) as driver:
        wait_for_shards(driver, 1)
        disk.leave(150_000)
        assert driver.finish() == 1, driver.text()
        said_in_a_line(driver.text(), _FULL, on_disk)
    assert temporaries(on_disk) == []
    kept = job.shards(on_disk)
    assert kept
    disk.grow()
    goes_on_from(kept, job, on_disk, head)
    verdict("disk full", job, on_disk)


def test_a_disk_read_only_while_a_shard_is_written(
    job: Job, on_disk: Path, disk: Disk, head: str, verdict: Verdict
) -> None:
    with Driver(job, on_disk, head) as driver:
        wait_for_shards(driver, 1)
        disk.set_read_only()
        assert driver.finish() == 1, driver.text()
        said_in_a_line(driver.text(), _READ_ONLY, on_disk)
    kept = job.shards(on_disk)
    disk.set_writable()
    goes_on_from(kept, job, on_disk, head)
    verdict("disk read-only", job, on_disk)


def test_a_disk_full_when_the_driver_writes(
    job: Job,
    finished: Callable[[Job], Path],
    disk: Disk,
    head: str,
    verdict: Verdict,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its figures and manifests, after the last shard and before the first."""
    root = Path(shutil.copytree(finished(job), disk.place / "root"))
    reports = [path.parent for path in root.glob("digits/sweeps/*/manifest.json")]
    if job is LABELS:
        reports = [path.parent for path in job.shards(root)][:1]
        forget(reports[0] / "manifest.json", complete=False, run_id=None)
    (figure,) = sorted(reports[0].glob("*.png"))[:1]
    figure.unlink()
    manifest = (reports[0] / "manifest.json").read_text()
    disk.leave(4096)
    assert run_here(job, root, "--address", head) == 1
    said_in_a_line(capsys.readouterr().err, _FULL, reports[0])
    assert (reports[0] / "manifest.json").read_text() == manifest
    next(iter(job.shards(root))).unlink()
    disk.leave(0)
    assert run_here(job, root, "--address", head) == 1
    said_in_a_line(capsys.readouterr().err, _FULL, root)
    disk.grow()
    assert run_here(job, root, "--address", head) == 0
    assert figure.is_file()
    verdict("disk full for the driver", job, root, times=2)


def forget(manifest: Path, **fields: object) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **fields}))


def test_a_store_of_runs_on_a_full_disk(
    job: Job,
    storage: Path,
    disk: Disk,
    head: str,
    verdict: Verdict,
) -> None:
    """It has tables already, or none yet."""
    old = disk.place / "old.db"
    shutil.copy(storage / "mlflow.db", old)
    before = old.read_bytes()
    disk.leave(0)
    for name in ("old.db", "new.db"):
        shutil.rmtree(storage / "digits" / "sweeps", ignore_errors=True)
        for path in job.shards(storage):
            path.unlink()
        assert run_here(job, storage, "--address", head, "--tracking-uri", f"sqlite:///{disk.place / name}") == 0
    assert old.read_bytes() == before
    verdict("disk full for the tracking", job, storage, times=2)


def test_a_disk_full_while_inputs_are_built(on_disk: Path, disk: Disk) -> None:
    """Wherever it gets full: in the backbone, in the memory, in its mapped parts."""
    for kind in ("backbone", "memory", "defenses"):
        shutil.rmtree(on_disk / "digits" / kind)
    config = cli.parse(JobConfig, [*PRESET, "--storage", str(on_disk)], description="")
    reasons: list[str] = []
    while len(reasons) < 100:
        disk.leave(40_000 * len(reasons))
        try:
            result = run_memory_build(config)
        except RetryableError as error:
            reasons.append(str(error))
        else:
            break
        assert temporaries(on_disk) == []
    assert len(reasons) > 5
    assert all(_FULL in reason for reason in reasons)
    assert result["rows"] == len(NeighborMemory.load(result["memory"]))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 3
    broken = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "without its end": content[:-1],
        # Its footer is whole.
        "garbage": content[:middle]
        + bytes(255 - byte for byte in content[middle : middle + 64])
        + content[middle + 64 :],
    }
    path.write_bytes(broken[how])


def test_damaged_shards_are_computed_again(
    job: Job, finished: Callable[[Job], Path], tmp_path: Path, head: str, verdict: Verdict
) -> None:
    root = Path(shutil.copytree(finished(job), tmp_path / "root"))
    shards = list(job.shards(root))
    ways = ("empty", "half", "without its end", "garbage")
    damaged = dict(zip(shards[:: len(shards) // len(ways)], ways, strict=False))
    for path, how in damaged.items():
        damage(path, how)
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    leave_temporary(shards[0], dead.pid)
    whole = {path: time for path, time in job.shards(root).items() if path not in damaged}
    assert run_here(job, root, "--address", head) == 0
    now = job.shards(root)
    assert {path: now[path] for path in whole} == whole
    verdict("damaged shard", job, root, times=len(damaged))


def test_a_truncated_manifest_is_refused(
    job: Job, finished: Callable[[Job], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(finished(job), tmp_path / "root"))
    manifest = next(iter(job.shards(root))).with_name("manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:100])
    assert run_here(job, root) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert f"error: {manifest} cannot be read" in message
