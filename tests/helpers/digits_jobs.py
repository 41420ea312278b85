"""Small jobs on digits for tests: seconds, not minutes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.jobs.label_qcp import LabelJobConfig
from otad_ray.presets import PRESETS, Preset

REPOSITORY = Path(__file__).parents[2]
# The same preset as configuration and as options.
QUICK_OPTIONS = ["--training.epochs", "3", "--neighbors", "5"]
ROWS = 1437


def quick_preset(**integration: Any) -> Preset:
    preset = PRESETS["digits"]
    return replace(
        preset,
        training=replace(preset.training, epochs=3),
        integration=replace(preset.integration, **{"num_neighbors": 5, **integration}),
    )


def label_config(storage: Path, *, integration: dict[str, Any] | None = None, **fields: Any) -> LabelJobConfig:
    """Return the options of a label job in this process, unless `fields` say otherwise."""
    preset = quick_preset(**(integration or {}))
    return LabelJobConfig(**{"preset": preset, "storage": str(storage), "local": True, **fields})


# Fields for two actors of the cluster that the `cluster` fixture starts.
ON_RAY = {"local": False, "num_actors": 2}


def read_labels(directory: str | Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path, partitioning=None) for path in sorted(Path(directory).glob("shard-*")))


def job_command(script: str, *options: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "jobs" / script), *options]


def run_job(script: str, *options: str, timeout: float = 240, **environment: str) -> dict[str, Any]:
    """Run a job to its end in a process of its own; its last line of output."""
    done = subprocess.run(
        job_command(script, *options),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def descendants(process: int) -> dict[int, str]:
    """Processes below `process`, with their titles."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            titles[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {process}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return {child: titles[child] for child in found if child != process}
        found |= more


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
