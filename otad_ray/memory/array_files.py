"""The arrays of a memory on disk: written a batch at a time, checked, and mapped."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from otad_ray.errors import InputError

# Squares of larger keys overflow in float32.
LARGEST_KEY_NORM = 1e18

Batches = Iterable[Tensor | np.ndarray]


class _ArrayFile:
    """A .npy file that batches are appended to; its length is written at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._dtype: np.dtype | None = None
        self._digest = hashlib.sha256()
        self.shape: tuple[int, ...] = (0,)

    def append(self, batch: np.ndarray) -> None:
        """Write the rows of a batch behind those before; InputError if their shape or type differs."""
        if self._dtype is None:
            self._dtype = batch.dtype
            self.shape = (0, *batch.shape[1:])
            self._write_header()
        if batch.shape[1:] != self.shape[1:] or batch.dtype != self._dtype:
            raise InputError(
                f"{Path(self._file.name).stem} batches differ: rows of {self.shape[1:]} {self._dtype} and then of "
                f"{batch.shape[1:]} {batch.dtype}"
            )
        # Unlike `tofile`, which does not say why it failed.
        self._file.write(batch.tobytes())
        self._digest.update(batch.data)
        self.shape = (self.shape[0] + len(batch), *self.shape[1:])

    def finish(self) -> str:
        """Complete the file, and return the SHA-256 of its values."""
        # numpy pads the header so that the first axis can grow in place.
        self._file.seek(0)
        self._write_header()
        return self._digest.hexdigest()

    def _write_header(self) -> None:
        assert self._dtype is not None
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()


def write_arrays(directory: Path, sources: Mapping[str, Batches]) -> dict[str, Any]:
    """Append batches to one .npy file for each array, and return what the manifest says of the arrays.

    Args:
        directory: an empty folder.
        sources: batches by the name of their array, equally many and of equal lengths.

    Returns:
        The number of rows, the shapes, the SHA-256 of the values, and the largest norm of a key that is searched.

    Raises:
        InputError: for rows that are not finite, differ in number or shape, or are none.
    """
    largest = 0.0
    with ExitStack() as stack:
        files = {name: _ArrayFile(stack.enter_context((directory / f"{name}.npy").open("wb"))) for name in sources}
        for batches in zip_longest(*sources.values()):
            if any(batch is None for batch in batches):
                raise InputError(f"{', '.join(sources)} must come in equally many batches")
            named = {name: _as_array(name, batch) for name, batch in zip(sources, batches, strict=True)}
            _check_batch(named)
            for name, array in named.items():
                files[name].append(array)
            searched = named.get("keys", named["points"]).astype(np.float64)
            largest = max(largest, float(np.sqrt(np.square(searched).sum(1).max(initial=0.0))))
        shapes = {name: file.shape for name, file in files.items()}
        if shapes["ids"][0] == 0:
            raise InputError("a memory needs at least one row, got none")
        if largest > LARGEST_KEY_NORM:
            raise InputError(
                f"a key has norm {largest:.3g}, the largest allowed is {LARGEST_KEY_NORM:.0e}; rescale them"
            )
        digests = {name: file.finish() for name, file in files.items()}
    return {
        "rows": shapes["ids"][0],
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "sha256": digests,
        "largest_key_norm": largest,
    }


def map_array(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Map a .npy file of this shape into memory; InputError if it is damaged or has another shape."""
    try:
        # Copy-on-write: torch wants a writable array; pages stay shared as nobody writes.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} is missing or truncated ({error}); delete {path.parent} and build it again"
        ) from error
    if array.shape != shape:
        raise InputError(f"{path} has shape {array.shape}, its manifest says {shape}; build {path.parent} again")
    return torch.from_numpy(array)


def _as_array(name: str, batch: Tensor | np.ndarray) -> np.ndarray:
    """Return a batch in the type that its array is stored in; InputError if it has another rank or type."""
    array = batch.detach().cpu().numpy() if isinstance(batch, Tensor) else np.asarray(batch)
    rank = 1 if name in ("labels", "ids") else 2
    if array.ndim != rank:
        raise InputError(f"{name} batches must have {rank} dimension(s), got shape {array.shape}")
    if rank == 2 and array.shape[1] == 0:
        raise InputError(f"rows of {name} must have a coordinate at least, got shape {array.shape}")
    if name == "ids" and array.dtype.kind not in "iu":
        raise InputError(f"ids must be whole numbers, got {array.dtype}")
    if name == "ids" or (name == "labels" and array.dtype.kind in "iu"):
        return np.ascontiguousarray(array, dtype=np.int64)
    return np.ascontiguousarray(array, dtype=np.float32)


def _check_batch(named: Mapping[str, np.ndarray]) -> None:
    """Raise InputError if the arrays of a batch differ in length, or hold values that are not finite."""
    lengths = {name: len(array) for name, array in named.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"batches must agree in length, got {lengths}")
    for name, array in named.items():
        if array.dtype.kind != "f":
            continue
        finite = np.isfinite(array.reshape(len(array), -1)).all(1)
        if not finite.all():
            raise InputError(f"{name} of id {named['ids'][~finite][0]} hold NaN or infinite values; remove that row")


def check_ids(ids: np.ndarray) -> None:
    """Raise InputError if an id of `ids` (n,) occurs twice."""
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise InputError(
            f"{int((counts > 1).sum())} ids occur more than once, first {unique[counts > 1][:5].tolist()}; "
            "ids must be unique"
        )
