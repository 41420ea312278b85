"""The jobs that faults are inflicted on: what they should leave, what they left, and their processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.digits_jobs import descendants, job_command
from otad_ray.jobs import cli
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.jobs.label_qcp import LabelJobConfig, run_label_job
from otad_ray.options import ActorJobConfig
from otad_ray.sweep.config import SweepConfig

PRESET = ("--training.epochs", "3", "--neighbors", "3")
ACTORS = 2
# For clusters of ours: an address 127.0.0.1 Ray takes for the one that others know this machine by.
LOOPBACK = "127.0.0.2"
# Of a job that is left alone, on a machine that has other things to do.
PATIENCE = 240

_LABELS = "labels"

# Where a row lies, a folder of results and an id, and all that it says.
Rows = dict[tuple[str, int], str]


@dataclass(frozen=True)
class Job:
    """A job of many small shards, so that faults fall between and into writes.

    folders: of a preset, that its shards lie in.
    """

    name: str
    script: str
    options: tuple[str, ...]
    folders: tuple[str, ...]
    config: type[ActorJobConfig]
    run: Callable[[Any], dict[str, Any]]

    def arguments(self, storage: Path, *more: str) -> list[str]:
        return [*PRESET, *self.options, "--num-actors", str(ACTORS), "--storage", str(storage), *more]

    def shards(self, storage: Path) -> dict[Path, int]:
        """Files that hold results, with the times they were written at."""
        found = (path for folder in self.folders for path in storage.glob(f"digits/{folder}/*/shard-*"))
        return {path: path.stat().st_mtime_ns for path in sorted(found)}

    def expected(self, storage: Path) -> Rows:
        """Return the results of an undisturbed run in this process, without Ray."""
        arguments = [*PRESET, *self.options, "--storage", str(storage), "--local"]
        self.run(cli.parse(self.config, arguments, description=""))
        return dict(self.found(storage))

    def found(self, storage: Path) -> list[tuple[tuple[str, int], str]]:
        """All rows that a reader of the directories would find."""
        files = self.shards(storage)
        return [row for file in files for row in _rows(_folder(file.parent), pq.read_table(file, partitioning=None))]


def _rows(folder: str, table: pa.Table) -> Iterator[tuple[tuple[str, int], str]]:
    # As text: NaN is no NaN.
    return (((folder, row["id"]), str(row)) for row in table.to_pylist())


def _folder(directory: Path) -> str:
    """Every attack has a folder of its own; of labels there is one, whatever its name."""
    kind = directory.parent.name
    return kind if kind == _LABELS else f"{kind}/{directory.name}"


LABELS = Job(
    name="label job",
    script="label_qcp.py",
    options=("--rows-per-shard", "8"),
    folders=(_LABELS,),
    config=LabelJobConfig,
    run=run_label_job,
)
SWEEP = Job(
    name="sweep",
    script="attack_sweep.py",
    options=(
        *("--samples", "360", "--defense", "otad", "--attacks", "noise", "fgsm"),
        *("--eps", "0.05", "0.1", "0.2", "0.3", "0.5", "1.0"),
    ),
    folders=("clean", "attacks"),
    config=SweepConfig,
    run=run_attack_sweep,
)
JOBS = (LABELS, SWEEP)


def processes_below(process: int) -> dict[int, str]:
    """Processes with the times they were started at: numbers are given again."""
    return {child: start for child in descendants(process) if (start := started(child)) is not None}


def without_agents(processes: dict[int, str]) -> dict[int, str]:
    """Ray's agents of a cluster that was killed outlive it by a minute; nothing else does."""
    return {
        process: start
        for process, start in processes.items()
        if not _title(process).startswith("ray::") or "Agent" not in _title(process)
    }


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def still_running(processes: dict[int, str]) -> list[int]:
    return [process for process, start in processes.items() if started(process) == start]


def started(process: int) -> str | None:
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]


def actors_below(process: int) -> list[int]:
    return [child for child, title in descendants(process).items() if "ShardActor" in title]


@dataclass
class Driver:
    """A job in a process of its own; ended with all that it started when the block ends.

    address: a cluster to join; None for one of its own.
    """

    job: Job
    storage: Path
    address: str | None = None
    options: tuple[str, ...] = ()
    process: subprocess.Popen = field(init=False)
    _log: Any = field(init=False)

    def __enter__(self) -> "Driver":
        joined = () if self.address is None else ("--address", self.address)
        command = job_command(self.job.script, *self.job.arguments(self.storage, *joined, *self.options))
        self._log = tempfile.NamedTemporaryFile("w")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*processes_below(self.process.pid), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait(timeout=30)
        self._log.close()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> dict[int, str]:
        """SIGKILL; the processes that it leaves."""
        left = processes_below(self.process.pid)
        self.process.kill()
        self.process.wait()
        return left

    def finish(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(timeout=seconds)

    def text(self) -> str:
        """What it said so far."""
        return Path(self._log.name).read_text()

    def ends_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.ended


def leave_temporary(shard: Path, process: int) -> None:
    """What a process leaves that dies while it writes a shard."""
    host = socket.gethostname().replace(".", "_")
    shard.with_name(f".{shard.name}.tmp.{host}-{process}-0a0b0c0d").write_bytes(b"half")


def wait_for_shards(driver: Driver, more: int, seconds: float = PATIENCE) -> None:
    """Until the driver has written that many, or has ended."""
    wanted = len(driver.job.shards(driver.storage)) + more
    deadline = time.monotonic() + seconds
    while not driver.ended and len(driver.job.shards(driver.storage)) < wanted:
        assert time.monotonic() < deadline, driver.text()
        # What comes after them lasts milliseconds.
        time.sleep(0.005)


def run_here(job: Job, storage: Path, *options: str) -> int:
    """The job in this process, as from the command line; its exit status."""
    before, sys.argv = sys.argv, [job.script, *job.arguments(storage, *options)]
    try:
        cli.main(job.config, job.run, description="")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
