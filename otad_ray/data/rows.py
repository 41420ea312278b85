"""Rows of a split, read by position: from memory, from Parquet, or a subset of either."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from otad_ray.errors import InputError

# Table to float32 samples, one per row; ValueError for a sample of another size.
Decoder = Callable[[pa.Table], np.ndarray]


class Columns(NamedTuple):
    """Columns of a Parquet file. id: None where rows are numbered by position. sample: those that the decoder reads."""

    id: str | None = "id"
    sample: tuple[str, ...] = ("image",)
    label: str = "label"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.id, *self.sample, self.label) if name is not None)


class Batch(NamedTuple):
    """ids (n,) int64, x (n, *sample shape) float32 in the set's bounds, y (n,) int64 or float32."""

    ids: Tensor
    x: Tensor
    y: Tensor


class Rows(Protocol):
    """A split with positions 0 .. len - 1.

    fingerprint: changes when any row does. origin: where the rows were read, for people.
    """

    fingerprint: str
    origin: str

    def __len__(self) -> int: ...

    def take(self, positions: np.ndarray) -> Batch:
        """Rows at ascending positions."""
        ...

    def check(self) -> None:
        """Read every row; InputError for ids that repeat, labels out of range, and samples that cannot be used."""
        ...


def iterate(rows: Rows, batch_size: int) -> Iterator[Batch]:
    """All rows in order of position, a batch at a time."""
    for start in range(0, len(rows), batch_size):
        yield rows.take(np.arange(start, min(start + batch_size, len(rows))))


def load_all(rows: Rows) -> Batch:
    """All rows in memory."""
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
        """Nothing to do: whoever reads a user's file into memory checks it there."""


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
        self._rows.check()


class ParquetRows:
    """Rows of Parquet files, read a row group at a time.

    files: in the order of positions. decode: table to float32 x.
    label_range: `[low, high)` of a class label, or None for real targets.
    Raises InputError for missing, empty or truncated files and missing columns; only footers are read for that.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        columns: Columns,
        decode: Decoder,
        label_range: tuple[int, int] | None,
    ) -> None:
        if not files:
            raise InputError("no Parquet files given")
        self._columns = columns
        self._decode = decode
        self._label_range = label_range
        label_kinds = "iu" if label_range is not None else "iuf"
        self._files = [_open_rows(Path(path), columns, label_kinds) for path in files]
        _check_same_types([Path(path) for path in files], self._files, columns)
        self._groups = [(file, group) for file in self._files for group in range(file.metadata.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts = [0, *accumulate(sizes)]
        if len(self) == 0:
            raise InputError(f"{files[0]} holds no rows")
        self._cached: tuple[int, pa.Table] | None = None
        self.fingerprint = _files_fingerprint(files)
        self.origin = str(Path(files[0]).parent)

    def __len__(self) -> int:
        return self._starts[-1]

    def take(self, positions: np.ndarray) -> Batch:
        parts = []
        begin = 0
        positions = np.asarray(positions, dtype=np.int64)
        while begin < len(positions):
            index = bisect_right(self._starts, positions[begin]) - 1
            end = int(np.searchsorted(positions, self._starts[index + 1]))
            local = positions[begin:end] - self._starts[index]
            parts.append(self._row_group(index).take(pa.array(local)))
            begin = end
        table = pa.concat_tables(parts)
        ids = positions if self._columns.id is None else table[self._columns.id].to_numpy().astype(np.int64)
        labels = table[self._columns.label].to_numpy()
        try:
            x = self._decode(table)
        except ValueError as error:
            raise InputError(f"{self.origin}: {error}") from error
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(x),
            torch.from_numpy(labels.astype(np.float32 if self._label_range is None else np.int64)),
        )

    def _row_group(self, index: int) -> pa.Table:
        if self._cached is None or self._cached[0] != index:
            file, group = self._groups[index]
            try:
                self._cached = (index, file.read_row_group(group, columns=list(self._columns.names)))
            except (OSError, pa.ArrowException) as error:
                raise InputError(
                    f"{self.origin}: row group {group} cannot be read ({error}); fetch it again"
                ) from error
        return self._cached[1]

    def check(self) -> None:
        ids = []
        for index in range(len(self._groups)):
            positions = np.arange(self._starts[index], self._starts[index + 1])
            if len(positions):
                ids.append(self._check_rows(self._row_group(index), positions))
        unique, counts = np.unique(np.concatenate(ids), return_counts=True)
        if (counts > 1).any():
            repeated = unique[counts > 1]
            raise InputError(
                f"{self.origin}: {len(repeated)} ids occur more than once, first {repeated[:5].tolist()}; "
                "ids must be unique within a split"
            )

    def _check_rows(self, table: pa.Table, positions: np.ndarray) -> np.ndarray:
        """Check a row group; its ids."""
        for name in self._columns.names:
            if table[name].null_count:
                raise InputError(f"{self.origin}: column {name!r} has {table[name].null_count} missing values")
        batch = self.take(positions)
        finite = torch.isfinite(batch.x.flatten(1)).all(1) & torch.isfinite(batch.y)
        if not bool(finite.all()):
            bad = int(batch.ids[~finite][0])
            raise InputError(f"{self.origin}: id {bad} holds NaN or infinite values; remove or repair it")
        if self._label_range is not None:
            low, high = self._label_range
            outside = (batch.y < low) | (batch.y >= high)
            if bool(outside.any()):
                raise InputError(
                    f"{self.origin}: label {int(batch.y[outside][0])} of id {int(batch.ids[outside][0])} "
                    f"is outside {low}..{high - 1}"
                )
        return batch.ids.numpy()


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file by its footer; InputError where there is none."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is no readable Parquet file ({error}); truncated? fetch it again") from error


def read_columns(files: Sequence[Path], names: Sequence[str]) -> pa.Table:
    """Some columns of all files, in memory; InputError for a missing column or a damaged file."""
    for path in files:
        require_columns(path, open_parquet(path).schema_arrow, names)
    try:
        return pa.concat_tables([pq.read_table(path, columns=list(names)) for path in files], promote_options="default")
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{files[0].parent}: the files cannot be read together ({error}); write them again") from error


def require_columns(path: Path, schema: pa.Schema, names: Sequence[str]) -> None:
    """InputError that names the first missing column and those there are."""
    missing = [name for name in names if name not in schema.names]
    if missing:
        raise InputError(f"{path} lacks column {missing[0]!r}; it has {', '.join(schema.names)}")


def _open_rows(path: Path, columns: Columns, label_kinds: str) -> pq.ParquetFile:
    file = open_parquet(path)
    schema = file.schema_arrow
    require_columns(path, schema, columns.names)
    for name, kinds in ((columns.id, "iu"), (columns.label, label_kinds)):
        if name is None:
            continue
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or ("f" in kinds and pa.types.is_floating(kind))):
            raise InputError(f"{path}: column {name!r} holds {kind}, need {'numbers' if 'f' in kinds else 'integers'}")
    return file


def _check_same_types(paths: Sequence[Path], files: Sequence[pq.ParquetFile], columns: Columns) -> None:
    """InputError for files whose rows cannot be put together."""
    for path, file in zip(paths[1:], files[1:], strict=True):
        for name in columns.names:
            first, found = files[0].schema_arrow.field(name).type, file.schema_arrow.field(name).type
            if first != found:
                raise InputError(
                    f"{path}: column {name!r} holds {found}, in {paths[0].name} {first}; write both as one type"
                )


def _files_fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
