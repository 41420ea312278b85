"""A small file system in memory that a test fills, grows and makes read-only."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

_MIB = 2**20


@dataclass(frozen=True)
class Disk:
    """Mounted at `place`."""

    place: Path

    @classmethod
    @contextmanager
    def mounted(cls, place: Path) -> Iterator[Self]:
        """Skips the test where this user may not mount."""
        done = _run("mount", "-t", "tmpfs", "-o", f"size={64 * _MIB}", "tmpfs", str(place))
        if done.returncode != 0:
            pytest.skip(f"cannot mount a file system: {done.stderr.strip()}")
        try:
            yield cls(place)
        finally:
            _run("umount", "--lazy", str(place))

    @property
    def used(self) -> int:
        found = os.statvfs(self.place)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def leave(self, free: int) -> None:
        """Make it so small that `free` bytes are left."""
        self._remount(f"size={self.used + free}")

    def grow(self) -> None:
        self._remount(f"size={64 * _MIB}")

    def set_read_only(self, seconds: float = 60) -> None:
        """As soon as no file is open for writing."""
        deadline = time.monotonic() + seconds
        while _run("mount", "-o", "remount,ro", str(self.place)).returncode != 0:
            assert time.monotonic() < deadline, "files stay open"

    def set_writable(self) -> None:
        self._remount("rw")

    def _remount(self, options: str) -> None:
        done = _run("mount", "-o", f"remount,{options}", str(self.place))
        assert done.returncode == 0, done.stderr


def _run(*command: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
