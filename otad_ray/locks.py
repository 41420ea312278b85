"""Blocks of code that one process at a time is in, on all machines that share a file system."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from otad_ray.errors import InputError


@contextmanager
def one_at_a_time(lock: Path, *, seconds: float | None = None) -> Iterator[None]:
    """Wait until no other process is in such a block with the same lock file; one that dies leaves its block.

    Args:
        lock: the file; it is made, and removed after the block.
        seconds: how long to wait at most; None for as long as it takes.

    Raises:
        InputError: on a file system without locks.
        TimeoutError: if the wait takes longer.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        with lock.open("w") as file:
            _acquire(file, lock, deadline)
            # A lock that was removed meanwhile is no longer the one that others find.
            if _is_file_at(lock, file.fileno()):
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


def _acquire(file: TextIO, lock: Path, deadline: float | None) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if deadline is None else fcntl.LOCK_NB))
        except BlockingIOError:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"another process holds {lock}") from None
            time.sleep(0.02)
        except OSError as error:
            raise InputError(
                f"{lock.parent} is on a file system without file locks ({error.strerror}); "
                "give another with --storage or OTAD_STORAGE"
            ) from error
        else:
            return


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
