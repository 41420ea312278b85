"""Rows of a split, read by position: from memory, or a subset of other rows."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """ids (n,) int64, x (n, *sample shape) float32 in the set's bounds, y (n,) int64 or float32."""

    ids: Tensor
    x: Tensor
    y: Tensor


class Rows(Protocol):
    """A split with positions 0 .. len - 1.

    Attributes:
        fingerprint: changes when any row does.
        origin: where the rows were read, for people.
    """

    fingerprint: str
    origin: str

    def __len__(self) -> int: ...

    def take(self, positions: np.ndarray) -> Batch:
        """Return rows at ascending positions."""
        ...

    def check(self) -> None:
        """Read every row; InputError for ids that repeat, labels out of range, and samples that cannot be used."""
        ...

    def digest_samples(self) -> np.ndarray:
        """Return a digest (n,) uint64 of each sample: rows with equal digests have equal samples."""
        ...

    def read_labels(self) -> np.ndarray:
        """Return y (n,) of all rows."""
        ...


def digest_values(values: Iterable[bytes]) -> np.ndarray:
    """Return a digest (n,) uint64 of each value: among a million, two differing ones agree in one of 10^7 cases."""
    digests = [hashlib.blake2b(value, digest_size=8).digest() for value in values]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def iterate(rows: Rows, batch_size: int) -> Iterator[Batch]:
    """Yield all rows in order of position, a batch at a time."""
    for start in range(0, len(rows), batch_size):
        yield rows.take(np.arange(start, min(start + batch_size, len(rows))))


def load_all(rows: Rows) -> Batch:
    """Return all rows, in memory."""
    return rows.take(np.arange(len(rows)))


class ArrayRows:
    """Rows held in memory: ids (n,), x (n, *sample shape), y (n,) int64 or float32. Arrays of those types are kept."""

    def __init__(self, ids: np.ndarray, x: np.ndarray, y: np.ndarray, *, origin: str) -> None:
        self.origin = origin
        self._arrays = (ids.astype(np.int64), x.astype(np.float32, copy=False), y)
        digest = hashlib.sha256()
        for array in self._arrays:
            digest.update(np.ascontiguousarray(array).data)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._arrays[0])

    def take(self, positions: np.ndarray) -> Batch:
        return Batch(*(torch.from_numpy(array[positions]) for array in self._arrays))

    def check(self) -> None:
        """Do nothing: whoever reads a user's file into memory checks it there."""

    def digest_samples(self) -> np.ndarray:
        """Return a digest (n,) uint64 of each sample."""
        return digest_values(row.tobytes() for row in self._arrays[1])

    def read_labels(self) -> np.ndarray:
        """Return y (n,) of all rows."""
        return self._arrays[2]


class SubsetRows:
    """Some positions of other rows."""

    def __init__(self, rows: Rows, positions: np.ndarray) -> None:
        self._rows = rows
        self.origin = rows.origin
        self._positions = np.sort(positions)
        digest = hashlib.sha256(rows.fingerprint.encode() + self._positions.astype(np.int64).tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._positions)

    def take(self, positions: np.ndarray) -> Batch:
        return self._rows.take(self._positions[positions])

    def check(self) -> None:
        """Check the other rows, all of them."""
        self._rows.check()

    def digest_samples(self) -> np.ndarray:
        """Return a digest (n,) uint64 of each sample."""
        return self._rows.digest_samples()[self._positions]

    def read_labels(self) -> np.ndarray:
        """Return y (n,) of all rows."""
        return self._rows.read_labels()[self._positions]
