"""A measurement, how it is timed, and the machine it was taken on."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the benchmark.

    ours, reference: in `unit`. ratio: how many times better ours is, so that more is better; goal: the least
    ratio wanted, or None. note: what was compared, and whether the results agree.
    """

    name: str
    unit: str
    ours: float
    reference: float
    ratio: float
    goal: float | None
    note: str

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.ratio >= self.goal


def best_of(repeats: int, function: Callable[[], Result]) -> tuple[float, Result]:
    """Least wall-clock seconds of several calls, and what the last one returned."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch, FAISS and BLAS on `count` threads within the block."""
    import faiss

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def machine() -> dict[str, str]:
    """Processor, cores, memory and commit: what every published number needs beside it."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{pages / 2**30:.0f} GiB",
        # Outside a checkout, as in a submitted job, the variable says it.
        "commit": checked_out(Path(__file__).parent) or os.environ.get("OTAD_COMMIT", "unknown"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def checked_out(directory: Path) -> str | None:
    """The commit of a directory, with a plus sign where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7"]
    try:
        found = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
