"""A memory far larger than a process may be is streamed to disk."""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otad_ray.benchmarks.measurement import Measurement
from otad_ray.memory import NeighborMemory
from otad_ray.models import TokenSpace

_SAMPLED_EVERY = 0.01
_GOAL = 1.0
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class StreamedRows:
    """Generated rows; by default as many as CIFAR-10 has, of the transformer in the authors' code: 65 tokens of 384.

    num_coordinates: of a patch. batch_rows: the memory job's, 64 MiB of features.
    """

    count: int = 50_000
    num_patches: int = 64
    num_coordinates: int = 48
    width: int = 384
    num_keys: int = 128
    batch_rows: int = 672

    @property
    def dimension(self) -> int:
        """D, with a class token."""
        return (1 + self.num_patches) * self.width

    def build(self, directory: Path) -> None:
        """Stream them to a memory in `directory`."""
        starts = range(0, self.count, self.batch_rows)
        sizes = [min(self.batch_rows, self.count - start) for start in starts]
        basis = torch.linalg.qr(torch.randn(self.width, self.num_coordinates)).Q
        space = TokenSpace(basis, num_moving=self.num_patches, num_fixed=1, offset=torch.zeros(self.dimension))
        NeighborMemory.build(
            directory,
            self._batches(sizes, self.num_keys),
            self._batches(sizes, space.num_coordinates),
            self._batches(sizes, self.dimension),
            (np.zeros(size, np.int64) for size in sizes),
            (np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)),
            point_space=space,
        )

    def _batches(self, sizes: list[int], width: int) -> Iterator[np.ndarray]:
        """Multiples of one batch of random rows: all differ, and drawing them takes no time."""
        rows = np.random.default_rng(0).standard_normal((self.batch_rows, width), dtype=np.float32)
        for number, size in enumerate(sizes):
            yield rows[:size] * np.float32(1 + number / len(sizes))


def measure_streaming(directory: Path, rows: StreamedRows | None = None, *, limit_mib: float = 2048) -> Measurement:
    """Largest private memory of a process of its own that builds a memory in `directory`, which is deleted again."""
    rows = rows or StreamedRows()
    start = time.perf_counter()
    try:
        peak = peak_private_bytes(rows.build, directory) / _MIB
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in directory.iterdir()) / _MIB
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Measurement(
        name="streamed_memory",
        unit="MiB",
        ours=peak,
        reference=limit_mib,
        ratio=limit_mib / peak,
        goal=_GOAL,
        note=f"private memory, {rows.count} rows of {rows.dimension} features and {rows.num_keys} keys; "
        f"{written:.0f} MiB on disk in {seconds:.0f} s",
    )


def peak_private_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Largest private memory of a new process while it calls a function; RuntimeError where the call fails."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    peak = 0
    while process.is_alive():
        peak = max(peak, private_bytes(process.pid))
        time.sleep(_SAMPLED_EVERY)
    if process.exitcode:
        raise RuntimeError(f"the measured process ended with exit code {process.exitcode}")
    return peak


def private_bytes(process: int | str | None = "self") -> int:
    """Anonymous memory of a process that is resident, on Linux; 0 of one that has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0
