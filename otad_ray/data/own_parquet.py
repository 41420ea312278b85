"""A user's own data: a directory of Parquet files, whose columns say what they hold."""

import csv
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from otad_ray.artifacts import content_hash
from otad_ray.data.definition import DataFolders, DataSet
from otad_ray.data.images import image_pixels, image_shape, is_encoded, raw_pixels
from otad_ray.data.rows import Columns, Decoder, ParquetRows, Rows, SubsetRows, open_parquet, read_columns
from otad_ray.data.splits import TrainTest, check_class_sizes, random_split, stratified_split
from otad_ray.data.tables import feature_values, list_values
from otad_ray.errors import InputError

logger = logging.getLogger(__name__)

_LABELS_FILE = "labels.csv"
_LIST_COLUMNS = ("x", "counts")
_MIN_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class OwnParquetSource:
    """parts: files by part, "train" and "test", or all of them under "" to be split 80/20 (by class, for classes)."""

    parts: dict[str, tuple[Path, ...]]
    columns: Columns
    decode: Decoder

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
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
        labels = read_columns(self.parts[""], [self.columns.label])[self.columns.label]
        train, test = _split(labels, classes, rows.origin)
        return SubsetRows(rows, test if part == "test" else train)


def own_parquet(folder: Path, label_column: str) -> DataSet:
    """The data set in a directory: `train/*.parquet` and `test/*.parquet`, or `*.parquet` to be split.

    label_column: integers are classes 0 .. C-1 (named in labels.csv, columns label and name, where there is one), real
    numbers are targets of a regression. Samples are one of: a column `image` (JPEG or PNG bytes, read as RGB; or raw
    8-bit pixels of a square image with 1 or 3 channels, all of a channel row by row before the next); a column `x` or
    `counts` of lists of numbers, taken as they are; else all other columns of numbers, a feature each. Rows are
    numbered by position where there is no column `id`. Raises InputError for files this cannot be read from.
    """
    parts = _parts(folder)
    first = next(iter(parts.values()))[0]
    schema = open_parquet(first).schema_arrow
    if label_column not in schema.names:
        raise InputError(
            f"{first} lacks the label column {label_column!r}; it has {', '.join(schema.names)}: name one of them with "
            "--label-column"
        )
    columns, decode, shape = _samples(first, schema, label_column)
    class_names = _class_names(folder, parts, first, schema, label_column)
    is_image = columns.sample == ("image",)
    return DataSet(
        name=folder.name,
        task="classification" if class_names else "regression",
        class_names=class_names,
        shape=shape,
        bounds=(0.0, 1.0) if is_image else None,
        eps_unit="norm on pixels scaled to [0, 1]" if is_image else "norm on features as they are stored",
        source=OwnParquetSource(parts=parts, columns=columns, decode=decode),
    )


def _split(labels: pa.ChunkedArray, classes: tuple[str, ...], origin: str) -> TrainTest:
    """80/20, by class where there are classes; InputError for labels that cannot be split so."""
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


def _parts(folder: Path) -> dict[str, tuple[Path, ...]]:
    if not folder.exists():
        raise InputError(f"{folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder of Parquet files that holds it, or an .h5ad file")
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return {part: tuple(_files(folder / part)) for part in ("train", "test")}
    return {"": tuple(_files(folder))}


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(
            f"{folder} holds no *.parquet file; a data set is a folder of them, to be split, or with train/ and test/"
        )
    return files


def _samples(path: Path, schema: pa.Schema, label_column: str) -> tuple[Columns, Decoder, tuple[int, ...]]:
    """Columns, decoder and shape of the samples, by the first file."""
    id_column = "id" if "id" in schema.names and label_column != "id" else None
    names = [name for name in schema.names if name not in (id_column, label_column, *_row_labels(schema))]
    if "image" in names:
        shape, encoded = _first_image(path, schema)
        decode = image_pixels(shape) if encoded else raw_pixels(shape)
        return Columns(id_column, ("image",), label_column), decode, shape
    for name in _LIST_COLUMNS:
        if name in names and _is_list(schema.field(name).type):
            dimension = _first_length(path, schema.field(name))
            return Columns(id_column, (name,), label_column), list_values(name, dimension), (dimension,)
    features = tuple(name for name in names if _is_number_or_flag(schema.field(name).type))
    if not features:
        raise InputError(
            f"{path} has no samples: need a column image (bytes), x or counts (lists of numbers), or columns of "
            f"numbers; it has {', '.join(schema.names)}"
        )
    logger.info("features of %s: %s", path.parent, ", ".join(features))
    return Columns(id_column, features, label_column), feature_values(features), (len(features),)


def _row_labels(schema: pa.Schema) -> list[str]:
    """Columns in which pandas keeps its index: positions or names of rows, not measurements."""
    described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    return [name for name in described.get("index_columns", []) if isinstance(name, str)]


def _class_names(
    folder: Path, parts: dict[str, tuple[Path, ...]], path: Path, schema: pa.Schema, label_column: str
) -> tuple[str, ...]:
    """Names of the classes; empty for real targets."""
    kind = schema.field(label_column).type
    if pa.types.is_floating(kind):
        return ()
    if not pa.types.is_integer(kind):
        raise InputError(
            f"{path}: the label column {label_column!r} holds {kind}, need integers (classes 0 .. C-1, names in "
            f"{_LABELS_FILE}) or real numbers (regression)"
        )
    if (folder / _LABELS_FILE).is_file():
        return _read_names(folder / _LABELS_FILE)
    files = [file for some in parts.values() for file in some]
    labels = read_columns(files, [label_column])[label_column].drop_null().to_numpy()
    classes = np.unique(labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        found = ", ".join(str(label) for label in classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise InputError(
            f"{folder}: column {label_column!r} needs labels 0 .. C-1 of at least 2 classes, each of which occurs, "
            f"found {found or 'none'}; number the classes so, name all of them in {_LABELS_FILE}, or write the "
            "targets of a regression as real numbers"
        )
    return tuple(str(label) for label in classes)


def _read_names(path: Path) -> tuple[str, ...]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"label", "name"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} needs the columns label and name, it has {', '.join(reader.fieldnames or ())}")
        rows = list(reader)
    labels = [row["label"] for row in rows]
    unnamed = [row["label"] for row in rows if not row["name"]]
    if unnamed:
        raise InputError(f"{path}: label {unnamed[0]} has no name")
    expected = [str(label) for label in range(len(rows))]
    if len(rows) < 2 or sorted(labels) != sorted(expected):
        raise InputError(f"{path} needs the labels 0 .. C-1, each once and at least 2, it has {', '.join(labels)}")
    return tuple(rows[labels.index(label)]["name"] for label in expected)


def _first_image(path: Path, schema: pa.Schema) -> tuple[tuple[int, int, int], bool]:
    """Shape of the first image, and whether it is a JPEG or PNG file."""
    kind = schema.field("image").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        raise InputError(f"{path}: column 'image' holds {kind}, need bytes")
    image = _first_value(path, "image")
    try:
        return image_shape(image), is_encoded(image)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _first_length(path: Path, field: pa.Field) -> int:
    """Values in the first list of a column of lists of numbers."""
    if not _is_number(field.type.value_type):
        raise InputError(f"{path}: column {field.name!r} holds {field.type}, need lists of numbers")
    dimension = len(_first_value(path, field.name))
    if dimension == 0:
        raise InputError(f"{path}: the first list of column {field.name!r} is empty")
    return dimension


def _first_value(path: Path, column: str) -> Any:
    for batch in open_parquet(path).iter_batches(batch_size=1, columns=[column]):
        if batch[column].null_count:
            raise InputError(f"{path}: the first value of column {column!r} is missing")
        return batch[column][0].as_py()
    raise InputError(f"{path} holds no rows")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number_or_flag(kind: pa.DataType) -> bool:
    return _is_number(kind) or pa.types.is_boolean(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
