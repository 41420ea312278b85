"""What a data set holds, said before it is used: its rows, its columns, the memory it takes, and rows that repeat."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from otad_ray.data.definition import DataFolders, DataSet, open_split
from otad_ray.data.rows import Rows
from otad_ray.machine import format_bytes

_BYTES_PER_VALUE = 4
_SHOWN = 8
_MAX_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """A data set in numbers; printed, it fits on one screen.

    Attributes:
        name: of the data set.
        origin: where its rows lie.
        task: "classification" or "regression".
        class_names: in the order of the labels; none for a regression.
        class_rows: training rows of each class; none for a regression.
        shape: of a sample.
        bounds: least and largest value of an input, or None.
        layout: how its rows became train and test.
        rows: rows of each split; validation is part of train.
        used: columns that are read.
        left_out: files and columns that are not read.
        sample_bytes: memory of all training samples as float32, which a training holds.
        repeated_rows: rows of train and test whose sample equals that of an earlier one.
        test_rows_in_train: rows of test whose sample occurs in train.
    """

    name: str
    origin: str
    task: str
    class_names: tuple[str, ...]
    class_rows: tuple[int, ...]
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None
    layout: str
    rows: dict[str, int]
    used: tuple[str, ...]
    left_out: tuple[str, ...]
    sample_bytes: int
    repeated_rows: int
    test_rows_in_train: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before trusting the numbers, a sentence each."""
        found = []
        if self.left_out:
            found.append(f"not read: {_shorten(self.left_out)}")
        if self.repeated_rows:
            found.append(f"{self.repeated_rows} rows repeat the sample of an earlier row")
        if self.test_rows_in_train:
            found.append(f"{self.test_rows_in_train} of {self.rows['test']} test rows occur in train")
        missing = [name for name, count in zip(self.class_names, self.class_rows, strict=True) if not count]
        if missing:
            found.append(f"no training row is of class {_shorten(missing)}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return the description with its warnings, of JSON types."""
        return {**asdict(self), "warnings": self.warnings}

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        bounds = "unbounded" if self.bounds is None else f"in [{self.bounds[0]:g}, {self.bounds[1]:g}]"
        counts = ", ".join(f"{split} {count}" for split, count in self.rows.items())
        lines = [
            f"data set {self.name} at {self.origin}",
            f"  rows      {counts} (validation is part of train)",
            f"  split     {self.layout}",
            f"  samples   {size} float32, {bounds}; those of train take {format_bytes(self.sample_bytes)}",
            f"  targets   {self._describe_targets()}",
        ]
        if self.used:
            lines.append(f"  columns   {_shorten(self.used)}")
        lines += [f"  WARNING   {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _describe_targets(self) -> str:
        if self.task == "regression":
            return "real numbers (regression)"
        sizes = [f"{name} ({count})" for name, count in zip(self.class_names, self.class_rows, strict=True)]
        return f"{len(sizes)} classes, with their training rows: {_shorten(sizes)}"


def describe_data_set(definition: DataSet, folders: DataFolders | None = None) -> DataDescription:
    """Describe a data set by its files and rows; nothing is computed with them.

    Rows are compared by digests of their samples, images by their bytes as they are stored, so that no more than a
    row group is in memory.

    Args:
        definition: the data set.
        folders: where to look, by default OTAD_DATA alone.

    Returns:
        The description.

    Raises:
        InputError: if the files cannot be read.
    """
    train, test = open_split(definition, "train", folders), open_split(definition, "test", folders)
    num_validation = len(definition.validation(train))
    repeated, leaked = count_repeats(train, test)
    num_classes = len(definition.class_names)
    return DataDescription(
        name=definition.name,
        origin=train.origin,
        task=definition.task,
        class_names=definition.class_names,
        class_rows=_count_classes(train, num_classes) if num_classes else (),
        shape=definition.shape,
        bounds=definition.bounds,
        layout=definition.notes.layout,
        rows={"train": len(train), "validation": num_validation, "test": len(test)},
        used=definition.notes.used,
        left_out=definition.notes.left_out,
        sample_bytes=_BYTES_PER_VALUE * len(train) * definition.dimension,
        repeated_rows=repeated,
        test_rows_in_train=leaked,
    )


def count_repeats(train: Rows, test: Rows) -> tuple[int, int]:
    """Count rows whose sample occurs more than once.

    Args:
        train: rows that a net is trained on.
        test: rows that it is tested on.

    Returns:
        The number of rows of both whose sample equals that of an earlier one, and of test rows that occur in train.
    """
    trained, tested = train.digest_samples(), test.digest_samples()
    both = np.concatenate([trained, tested])
    return len(both) - len(np.unique(both)), int(np.isin(tested, trained).sum())


def _count_classes(rows: Rows, num_classes: int) -> tuple[int, ...]:
    """Count the rows of each class."""
    labels = rows.read_labels()
    return tuple(np.bincount(labels, minlength=num_classes).tolist())


def _shorten(values: tuple[str, ...] | list[str]) -> str:
    """Return as many of the values as fit on a line, and how many there are besides."""
    shown: list[str] = []
    for value in values[:_SHOWN]:
        if shown and len(", ".join([*shown, value])) > _MAX_WIDTH:
            break
        shown.append(value if len(value) <= _MAX_WIDTH else f"{value[:_MAX_WIDTH]}...")
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
