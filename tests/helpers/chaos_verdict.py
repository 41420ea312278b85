"""What a fault left: rows lost, doubled or wrong, temporaries, orphans."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from helpers.chaos_jobs import Job, Rows, actors_below, started, still_running
from helpers.chaos_table import PROPERTY, Outcome
from otad_ray.artifacts import is_temporary

# Ray's agents outlive a driver that is killed with its cluster.
_ORPHAN_SECONDS = 90


class Verdict:
    """Counts what a fault left, says it in the table, and fails the test unless it is nothing."""

    def __init__(self, expected: Callable[[Job], Rows], record: Callable[[str, object], None]) -> None:
        self._expected = expected
        self._record = record
        self._began = time.monotonic()

    def __call__(
        self, fault: str, job: Job, storage: Path, *, times: int = 1, processes: dict[int, str] | None = None
    ) -> None:
        """processes: those that a driver left. Actors on a cluster of ours must be gone too."""
        actors = {actor: start for actor in actors_below(os.getpid()) if (start := started(actor)) is not None}
        orphans = _outliving({**(processes or {}), **actors})
        left = temporaries(storage)
        outcome = Outcome(
            fault=fault,
            job=job.name,
            times=times,
            **compare(job, storage, self._expected(job)),
            temporaries=len(left),
            orphans=len(orphans),
            seconds=time.monotonic() - self._began,
        )
        self._record(PROPERTY, outcome.as_property())
        assert outcome.rows > 0
        assert (outcome.lost, outcome.doubled, outcome.wrong) == (0, 0, 0)
        assert left == []
        assert orphans == []


def temporaries(storage: Path) -> list[Path]:
    """What unfinished writes left. Records that wait for a tracking server are none."""
    return [path for path in storage.rglob(".*") if is_temporary(path)]


def compare(job: Job, storage: Path, expected: Rows) -> dict[str, int]:
    """Rows lost, doubled and wrong, against what an undisturbed run has."""
    found = job.found(storage)
    times = Counter(key for key, _ in found)
    return {
        "rows": len(expected),
        "lost": sum(key not in times for key in expected),
        "doubled": sum(count > 1 for count in times.values()),
        "wrong": sum(expected.get(key) != text for key, text in found),
    }


def _outliving(processes: dict[int, str]) -> list[int]:
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while (left := still_running(processes)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
