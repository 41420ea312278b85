"""A user's own data: a directory of Parquet files, whose columns say what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from otad_ray.artifacts import content_hash
from otad_ray.data.definition import DataFolders, DataSet, SourceNotes
from otad_ray.data.own.class_names import LABELS_FILE, read_class_names
from otad_ray.data.own.columns import SampleColumns, choose_samples
from otad_ray.data.own.files import FileLayout, find_layout, find_split
from otad_ray.data.own.numbers import check_resolution
from otad_ray.data.parquet.files import open_parquet, read_columns, require_columns
from otad_ray.data.parquet.rows import Columns, Decoder, ParquetRows
from otad_ray.data.parquet.types import NUMBERS, find_kind
from otad_ray.data.rows import Rows, SubsetRows
from otad_ray.data.splits import TrainTest, check_class_sizes, random_split, stratified_split
from otad_ray.errors import InputError

_MIN_ROWS = 5
_SPLIT_COLUMN = "split"
_IMAGE_EPS = "norm on pixels scaled to [0, 1]"
_FEATURE_EPS = "norm on features as they are stored"


@dataclass(frozen=True, kw_only=True)
class OwnParquetSource:
    """Parquet files of the user's.

    Attributes:
        parts: files by part, "train" and "test", or all of them under "".
        columns: what is read of them.
        decode: table to samples.
        split_column: the column that says the part of each row; None if rows are to be split 80/20 (by class, for
            classes). Of files in parts it is None.
    """

    parts: Mapping[str, tuple[Path, ...]]
    columns: Columns
    decode: Decoder
    split_column: str | None

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
        """Return the rows of the part "train" or "test"."""
        classes = definition.class_names
        rows = ParquetRows(
            self.parts.get(part) or self.parts[""],
            columns=self.columns,
            decode=self.decode,
            label_range=(0, len(classes)) if classes else None,
        )
        # The same files are other rows when other columns of them are read.
        rows.fingerprint = content_hash([rows.fingerprint, self.columns, classes])
        if part in self.parts:
            return rows
        train, test = self._divide(classes, rows.origin)
        return SubsetRows(rows, test if part == "test" else train)

    def _divide(self, classes: tuple[str, ...], origin: str) -> TrainTest:
        """Return the positions of the training and of the test rows."""
        if self.split_column is not None:
            return _divide_by_column(self.parts[""], self.split_column)
        labels = read_columns(self.parts[""], [self.columns.label])[self.columns.label]
        return _split(labels, classes, origin)


def own_parquet(folder: Path, label_column: str, *, allow_copies: bool = False) -> DataSet:
    """Return the data set in a directory of Parquet files.

    Rows are divided by folders (`train/`, `test/`), by file names (`train-*.parquet`, `test-*.parquet`) or by a column
    `split`; else they are split 80/20. If there is a validation part but no test part, it is the test part. Labels
    that are integers are classes 0 .. C-1 (named in labels.csv, columns label and name, if there is one), real numbers
    are targets of a regression. Samples are one of: a column `image` (JPEG or PNG bytes, alone or in the Hub's struct
    of bytes and path, read as RGB; or raw 8-bit pixels of a square image with 1 or 3 channels, all of a channel row by
    row before the next); a column `x` or `counts` of lists or fixed-shape tensors of numbers, taken as they are; else
    all other columns of numbers, a feature each. Rows are numbered by position if there is no column `id`.

    Args:
        folder: the directory.
        label_column: the column of classes or targets.
        allow_copies: whether a file may be a copy of another one.

    Returns:
        The data set; no row is read for it but labels and first samples.

    Raises:
        InputError: for files that this cannot be read from.
    """
    layout = find_layout(folder, allow_copies=allow_copies)
    watched = (*layout.files, *(place / LABELS_FILE for place in layout.names if (place / LABELS_FILE).is_file()))
    versions = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in watched)
    return _describe_files(folder, label_column, allow_copies, watched, versions)


@lru_cache(maxsize=16)
def _describe_files(
    folder: Path,
    label_column: str,
    allow_copies: bool,
    watched: tuple[Path, ...],
    versions: tuple[tuple[int, int], ...],
) -> DataSet:
    """Return the data set of files of these versions: a job asks for its data set many times."""
    layout = find_layout(folder, allow_copies=allow_copies)
    schemas = _read_schemas(layout)
    # Without a row anywhere, the first file says what is missing.
    first, schema = next(iter(schemas.items())) if schemas else (layout.files[0], _read_schema(layout.files[0]))
    if label_column not in schema.names:
        raise InputError(
            f"{first} lacks the label column {label_column!r}; it has {', '.join(schema.names)}: name one of them with "
            "--label-column"
        )
    require_columns(first, schema, [label_column])
    class_names = _find_class_names(folder, layout, first, schema, label_column)
    split_column = _find_split_column(layout, first, schema, label_column)
    aside = [name for name in (split_column,) if name is not None]
    samples = choose_samples(first, schema, label_column=label_column, aside=aside)
    if not samples.is_image:
        check_resolution(list(schemas), samples.columns.sample, samples.shape)
    return DataSet(
        name=folder.name,
        task="classification" if class_names else "regression",
        class_names=class_names,
        shape=samples.shape,
        bounds=(0.0, 1.0) if samples.is_image else None,
        eps_unit=_IMAGE_EPS if samples.is_image else _FEATURE_EPS,
        source=OwnParquetSource(
            parts=layout.parts, columns=samples.columns, decode=samples.decode, split_column=split_column
        ),
        notes=SourceNotes(
            layout=_describe_layout(layout, split_column, bool(class_names)),
            used=tuple(f"{name} ({schema.field(name).type})" for name in samples.columns.names + tuple(aside)),
            left_out=(*samples.left_out, *_find_extra_columns(schemas, samples), *layout.left_out),
        ),
    )


def _read_schema(path: Path) -> pa.Schema:
    with open_parquet(path) as file:
        return file.schema_arrow


def _read_schemas(layout: FileLayout) -> dict[Path, pa.Schema]:
    """Return the schemas of the files with rows, in order of the parts; a part without rows is refused."""
    schemas = {}
    for files in layout.parts.values():
        for path in files:
            with open_parquet(path) as file:
                if file.metadata.num_rows:
                    schemas[path] = file.schema_arrow
    return schemas


def _find_extra_columns(schemas: Mapping[Path, pa.Schema], samples: SampleColumns) -> list[str]:
    """Return the columns that only files after the first have: they are not read."""
    first = next(iter(schemas.values())).names if schemas else ()
    extra = {name: path.name for path, schema in schemas.items() for name in schema.names if name not in first}
    return [f"{name} (only in {path})" for name, path in extra.items()]


def _describe_layout(layout: FileLayout, split_column: str | None, has_classes: bool) -> str:
    if layout.description:
        return f"train and test {layout.description}"
    if split_column is not None:
        return f"train and test by the column {split_column!r}"
    return "split 80/20 " + ("by class, always the same way" if has_classes else "at random, always the same way")


def _find_split_column(layout: FileLayout, path: Path, schema: pa.Schema, label_column: str) -> str | None:
    """Return the column that says the split of each row; None if there is none, or the files say it already."""
    if "" not in layout.parts or _SPLIT_COLUMN not in schema.names or label_column == _SPLIT_COLUMN:
        return None
    require_columns(path, schema, [_SPLIT_COLUMN])
    kind = schema.field(_SPLIT_COLUMN).type
    if find_kind(kind) in (*NUMBERS, "flag"):
        raise InputError(
            f"{path}: column 'split' holds {kind}, which does not say what is train and what is test; write the words "
            "train and test, or call the column otherwise if it is a feature"
        )
    if find_kind(kind) != "text":
        return None
    words = set(_read_words(layout.parts[""], _SPLIT_COLUMN))
    splits = {find_split(word or "") for word in words}
    if splits == {None} or splits == {"train"}:
        return None
    if None in splits or "train" not in splits:
        raise InputError(
            f"{path.parent}: column 'split' says {', '.join(sorted(map(str, words))[:5])}; need train and test (or "
            "validation) in every row"
        )
    return _SPLIT_COLUMN


def _read_words(files: tuple[Path, ...], column: str) -> list[str | None]:
    return read_columns(files, [column])[column].to_pylist()


def _divide_by_column(files: tuple[Path, ...], column: str) -> TrainTest:
    splits = np.array([find_split(word or "") for word in _read_words(files, column)])
    held_out = "test" if "test" in splits else "validation"
    return np.flatnonzero(splits == "train"), np.flatnonzero(splits == held_out)


def _split(labels: pa.ChunkedArray, classes: tuple[str, ...], origin: str) -> TrainTest:
    """Split 80/20, by class if there are classes; InputError for labels that cannot be split so."""
    if labels.null_count:
        raise InputError(f"{origin}: {labels.null_count} rows have no label; remove them")
    y = labels.to_numpy()
    if not classes:
        if len(y) < _MIN_ROWS:
            raise InputError(f"{origin} holds {len(y)} rows, need at least {_MIN_ROWS} to split them")
        return random_split(y, y, num_test=len(y) // 5)
    outside = y[(y < 0) | (y >= len(classes))]
    if len(outside):
        raise InputError(f"{origin}: label {outside[0]} is outside 0..{len(classes) - 1}")
    check_class_sizes(y, classes, origin=origin)
    return stratified_split(y, y)


def _find_class_names(
    folder: Path, layout: FileLayout, path: Path, schema: pa.Schema, label_column: str
) -> tuple[str, ...]:
    """Return the names of the classes; none for real targets."""
    kind = schema.field(label_column).type
    if pa.types.is_floating(kind):
        return ()
    if not pa.types.is_integer(kind):
        raise InputError(
            f"{path}: the label column {label_column!r} holds {kind}, need integers (classes 0 .. C-1, names in "
            f"{LABELS_FILE}) or real numbers (regression)"
        )
    for place in layout.names:
        if (place / LABELS_FILE).is_file():
            return read_class_names(place / LABELS_FILE)
    labels = read_columns(layout.files, [label_column])[label_column].drop_null().to_numpy()
    classes = np.unique(labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        found = ", ".join(str(label) for label in classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise InputError(
            f"{folder}: column {label_column!r} needs labels 0 .. C-1 of at least 2 classes, each of which occurs, "
            f"found {found or 'none'}; number the classes so, name all of them in {LABELS_FILE}, or write the "
            "targets of a regression as real numbers"
        )
    return tuple(str(label) for label in classes)
