"""Rows of Parquet files, read by position, a row group at a time."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from otad_ray.data.parquet.files import open_parquet, refusing_damage, require_columns
from otad_ray.data.parquet.types import find_kind, read_bytes
from otad_ray.data.rows import Batch, digest_values
from otad_ray.errors import InputError

# Table to float32 samples, one per row; ValueError for a sample of another size.
Decoder = Callable[[pa.Table], np.ndarray]


class Columns(NamedTuple):
    """Columns of a Parquet file.

    Attributes:
        id: the column of ids; None if rows are numbered by position.
        sample: the columns that the decoder reads.
        label: the column of classes or targets.
    """

    id: str | None = "id"
    sample: tuple[str, ...] = ("image",)
    label: str = "label"

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read."""
        return tuple(name for name in (self.id, *self.sample, self.label) if name is not None)


class _Group(NamedTuple):
    """A row group with rows: its file and its number there."""

    path: Path
    number: int
    num_rows: int


class ParquetRows:
    """Rows of Parquet files, read a row group at a time; one file is open at any time.

    Files may differ in the order, width, nullability and list flavour of their columns. A file without rows only
    needs a footer.

    Args:
        files: in the order of positions.
        columns: what is read.
        decode: table to float32 x.
        label_range: `[low, high)` of a class label, or None for real targets.

    Raises:
        InputError: for missing, empty or truncated files, and for missing columns; only footers are read for that.
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
        self._groups = _find_groups([Path(path) for path in files], columns, has_classes=label_range is not None)
        self._starts = [0, *accumulate(group.num_rows for group in self._groups)]
        if len(self) == 0:
            raise InputError(f"{files[0]} holds no rows")
        self._cached: tuple[int, pa.Table] | None = None
        self._opened: tuple[Path, pq.ParquetFile] | None = None
        self.fingerprint = _fingerprint_files(files)
        self.origin = str(Path(files[0]).parent)

    def __len__(self) -> int:
        return self._starts[-1]

    def take(self, positions: np.ndarray) -> Batch:
        """Return rows at ascending positions."""
        positions = np.asarray(positions, dtype=np.int64)
        ids, y = np.empty(len(positions), np.int64), np.empty(len(positions), self._label_type)
        # Its shape is known when the first row is decoded.
        x = np.empty(0, np.float32)
        begin = 0
        while begin < len(positions):
            index = bisect_right(self._starts, positions[begin]) - 1
            end = int(np.searchsorted(positions, self._starts[index + 1]))
            table = self._row_group(index).take(pa.array(positions[begin:end] - self._starts[index]))
            path = self._groups[index].path
            part = self._decode_samples(table, path)
            if not begin:
                x = np.empty((len(positions), *part.shape[1:]), np.float32)
            x[begin:end] = part
            ids[begin:end] = positions[begin:end] if self._columns.id is None else _read_ids(table, self._columns, path)
            y[begin:end] = self._convert_labels(table, path)
            begin = end
        return Batch(torch.from_numpy(ids), torch.from_numpy(x), torch.from_numpy(y))

    def check(self) -> None:
        """Read every row; InputError for what no job can work with."""
        ids = [self._check_group(index) for index in range(len(self._groups))]
        unique, counts = np.unique(np.concatenate(ids), return_counts=True)
        if (counts > 1).any():
            repeated = unique[counts > 1]
            raise InputError(
                f"{self.origin}: {len(repeated)} ids occur more than once, first {repeated[:5].tolist()}; "
                "ids must be unique within a split"
            )

    def digest_samples(self) -> np.ndarray:
        """Return a digest (n,) uint64 of each sample; of images, of their bytes as they are stored."""
        return np.concatenate([self._digest_group(index) for index in range(len(self._groups))])

    def read_labels(self) -> np.ndarray:
        """Return y (n,) of all rows; nothing else is read."""
        parts = []
        for path in dict.fromkeys(group.path for group in self._groups):
            with open_parquet(path) as file, refusing_damage(path):
                parts.append(self._convert_labels(file.read(columns=[self._columns.label]), path))
        labels = np.concatenate(parts)
        if self._label_range is not None:
            low, high = self._label_range
            outside = labels[(labels < low) | (labels >= high)]
            if len(outside):
                raise InputError(f"{self.origin}: label {outside[0]} is outside {low}..{high - 1}")
        return labels

    @property
    def _label_type(self) -> type[np.generic]:
        return np.float32 if self._label_range is None else np.int64

    def _digest_group(self, index: int) -> np.ndarray:
        table, path = self._row_group(index), self._groups[index].path
        column = table[self._columns.sample[0]]
        if find_kind(column.type) in ("bytes", "image"):
            return digest_values(value or b"" for value in read_bytes(column))
        return digest_values(row.tobytes() for row in self._decode_samples(table, path))

    def _row_group(self, index: int) -> pa.Table:
        if self._cached is None or self._cached[0] != index:
            group = self._groups[index]
            with refusing_damage(group.path):
                table = self._open(group.path).read_row_group(group.number, columns=list(self._columns.names))
            if len(table) != group.num_rows:
                raise InputError(
                    f"{group.path}: row group {group.number} holds {len(table)} rows, and its footer says "
                    f"{group.num_rows}; fetch or write the file again"
                )
            self._cached = (index, table)
        return self._cached[1]

    def _open(self, path: Path) -> pq.ParquetFile:
        """Return the open file; one at a time, because processes may have only so many open."""
        if self._opened is None or self._opened[0] != path:
            if self._opened is not None:
                self._opened[1].close()
            self._opened = (path, open_parquet(path))
        return self._opened[1]

    def _decode_samples(self, table: pa.Table, path: Path) -> np.ndarray:
        """Return the samples (n, *shape) float32 of some rows."""
        _refuse_missing(table, self._columns.sample, path)
        try:
            with np.errstate(over="ignore"):
                return self._decode(table)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error

    def _convert_labels(self, table: pa.Table, path: Path) -> np.ndarray:
        if self._label_range is not None:
            return _read_integers(table, self._columns.label, path)
        _refuse_missing(table, (self._columns.label,), path)
        with np.errstate(over="ignore"):
            return table[self._columns.label].to_numpy().astype(np.float32)

    def _check_group(self, index: int) -> np.ndarray:
        """Check a row group, and return its ids (n,)."""
        _refuse_missing(self._row_group(index), self._columns.names, self._groups[index].path)
        batch = self.take(np.arange(self._starts[index], self._starts[index + 1]))
        path = self._groups[index].path
        finite = torch.isfinite(batch.x.flatten(1)).all(1) & torch.isfinite(batch.y)
        if not bool(finite.all()):
            bad = int(batch.ids[~finite][0])
            raise InputError(f"{path}: id {bad} holds NaN or values that are infinite as float32; remove or repair it")
        if self._label_range is not None:
            low, high = self._label_range
            outside = (batch.y < low) | (batch.y >= high)
            if bool(outside.any()):
                raise InputError(
                    f"{path}: label {int(batch.y[outside][0])} of id {int(batch.ids[outside][0])} "
                    f"is outside {low}..{high - 1}"
                )
        return batch.ids.numpy()


def _find_groups(paths: Sequence[Path], columns: Columns, *, has_classes: bool) -> list[_Group]:
    """Return the row groups of all files, in order; refuse files whose rows cannot be put together."""
    groups: list[_Group] = []
    first: tuple[Path, pa.Schema] | None = None
    for path in paths:
        with open_parquet(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
            if metadata.num_rows == 0:
                continue
            _check_types(path, schema, columns, has_classes=has_classes)
            first = first or (path, schema)
            _check_same_kinds(path, schema, columns, first)
            sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            groups += [_Group(path, number, size) for number, size in enumerate(sizes) if size]
    return groups


def _check_types(path: Path, schema: pa.Schema, columns: Columns, *, has_classes: bool) -> None:
    """Refuse a file without the columns, or whose ids or labels are of a type that they cannot have."""
    require_columns(path, schema, columns.names)
    for name, need_integers in ((columns.id, True), (columns.label, has_classes)):
        if name is None:
            continue
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not need_integers)):
            raise InputError(f"{path}: column {name!r} holds {kind}, need {'integers' if need_integers else 'numbers'}")


def _check_same_kinds(path: Path, schema: pa.Schema, columns: Columns, first: tuple[Path, pa.Schema]) -> None:
    """Refuse a file whose columns hold other things than those of the first file with rows."""
    for name in columns.names:
        expected, found = first[1].field(name).type, schema.field(name).type
        if find_kind(expected) != find_kind(found):
            raise InputError(
                f"{path}: column {name!r} holds {found}, in {first[0].name} {expected}; write both as one type"
            )


def _read_ids(table: pa.Table, columns: Columns, path: Path) -> np.ndarray:
    assert columns.id is not None
    return _read_integers(table, columns.id, path)


def _read_integers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """Return a column of integers as int64 (n,); refuse those that do not fit."""
    _refuse_missing(table, (name,), path)
    values = table[name].to_numpy()
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"{path}: column {name!r} holds {values.max()}, which does not fit into 64 bits with a sign; number the "
            "rows anew"
        )
    return values.astype(np.int64)


def _refuse_missing(table: pa.Table, names: Sequence[str], path: Path) -> None:
    for name in names:
        if table[name].null_count:
            raise InputError(f"{path}: column {name!r} has {table[name].null_count} missing values")


def _fingerprint_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
