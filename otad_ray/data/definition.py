"""What a data set is, and how its splits are opened."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, Protocol, Self, get_args

import numpy as np

from otad_ray.artifacts import atomic_directory
from otad_ray.data.parquet.rows import Columns, Decoder, ParquetRows
from otad_ray.data.rows import ArrayRows, Rows, SubsetRows
from otad_ray.data.splits import random_tenth
from otad_ray.errors import InputError
from otad_ray.locations import resolve_path

Split = Literal["train", "fit", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
_COLUMNS = Columns()
_SAMPLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class DataFolders:
    """Where data sets lie: below `given`, the user's own, and else below `cache`, where downloads are kept."""

    given: Path | None = None
    cache: Path | None = None

    @classmethod
    def from_environment(cls, *, cache: Path | None = None) -> Self:
        """`given` is OTAD_DATA, made absolute so that other processes and machines find the same."""
        named = os.environ.get("OTAD_DATA")
        if not named:
            return cls(cache=cache)
        given = resolve_path(named, "OTAD_DATA")
        if not given.is_dir():
            raise InputError(f"OTAD_DATA is {given}, which is no folder; correct it or unset it")
        return cls(given=given, cache=cache)


class Source(Protocol):
    """Where the published parts of a data set come from."""

    def open(self, definition: "DataSet", part: str, folders: "DataFolders") -> Rows:
        """Rows of the published part "train" or "test"."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceNotes:
    """What is known of a data set's files before any row is read.

    Attributes:
        layout: how its rows became train and test, a phrase.
        used: the columns that are read, "name (type)" each; empty if the files are of a kind without columns.
        left_out: files and columns that are not read, a phrase each.
    """

    layout: str = "train and test as the catalog fixes them"
    used: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


_CATALOG_NOTES = SourceNotes()


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set: all that the rest of the system asks of one.

    Attributes:
        name: its name in the catalog, or that of the user's folder or file.
        task: what its targets are.
        class_names: in the order of the labels; empty for regression, where y is float32.
        shape: shape of one sample.
        bounds: least and largest value of an input, or None.
        eps_unit: what a perturbation budget of 1 means, said beside every number.
        source: where its rows come from.
        validation: returns the positions of the training rows that are the validation tenth.
        bayes_accuracy: the best accuracy that any classifier can have, where it is known.
        train_rows: the training part is a seeded sample of so many of its rows; None is all.
        notes: what is known of its files.
    """

    name: str
    task: Literal["classification", "regression"]
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None
    eps_unit: str
    source: Source
    validation: Callable[[Rows], np.ndarray] = random_tenth
    bayes_accuracy: Callable[[], float] | None = None
    train_rows: int | None = None
    notes: SourceNotes = _CATALOG_NOTES

    @property
    def dimension(self) -> int:
        return prod(self.shape)

    @property
    def num_outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.class_names) if self.task == "classification" else 1


def open_split(definition: DataSet, split: Split, folders: DataFolders | None = None) -> Rows:
    """Rows of a split; ids are unique within it. folders: where to look, by default OTAD_DATA alone.

    train: the published training part. validation: a fixed tenth of it, by a seeded permutation of the
    positions (or as the definition says), for choosing hyperparameters. fit: the rest of it. test: the published
    test part.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    folders = folders or DataFolders.from_environment()
    rows = definition.source.open(definition, "test" if split == "test" else "train", folders)
    if split != "test" and definition.train_rows is not None:
        rows = _sample(rows, definition.train_rows)
    if split in ("train", "test"):
        return rows
    validation = definition.validation(rows)
    if not len(validation):
        raise InputError(
            f"{rows.origin}: {len(rows)} training rows are too few for a validation tenth; "
            "train on all of them (--training.rows train) or add rows"
        )
    return SubsetRows(rows, validation if split == "validation" else np.setdiff1d(np.arange(len(rows)), validation))


def _sample(rows: Rows, count: int) -> Rows:
    """Return a seeded random subset of `count` rows; a smaller subset is contained in every larger one."""
    if not 1 <= count <= len(rows):
        raise InputError(f"train_rows must be 1 to {len(rows)}, the training rows of {rows.origin}, got {count}")
    return SubsetRows(rows, np.random.default_rng(_SAMPLE_SEED).permutation(len(rows))[:count])


@dataclass(frozen=True)
class ArraySource:
    """A data set that needs no files: a library carries it, or it is generated.

    origin: where it comes from, for people. load: ids, x and y of a part.
    """

    origin: str
    load: Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]]

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
        return ArrayRows(*self.load(part), origin=self.origin)


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet in `<name>/<part>/` below the given folder, else below the cache, where `fetch` puts it.

    fetch: writes both parts into the directory it is given, or raises; what it wrote is used only if it ends.
    """

    decode: Decoder
    fetch: Callable[[Path], None]
    columns: Columns = _COLUMNS

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
        files = parquet_files(find_folder(definition.name, folders, self.fetch) / part)
        label_range = (0, len(definition.class_names)) if definition.task == "classification" else None
        return ParquetRows(files, columns=self.columns, decode=self.decode, label_range=label_range)


def find_folder(name: str, folders: DataFolders, fetch: Callable[[Path], None]) -> Path:
    """`<name>` below the given folder, else below the cache, where `fetch` makes it if need be."""
    if folders.given is not None and (folders.given / name).is_dir():
        return folders.given / name
    if folders.cache is None:
        raise InputError(
            f"data set {name!r} is not in OTAD_DATA ({folders.given or 'not set'}); set it to a folder with {name}"
        )
    directory = folders.cache / name
    if not directory.is_dir():
        with atomic_directory(directory) as temporary:
            fetch(temporary)
    return directory


def parquet_files(directory: Path) -> list[Path]:
    """The Parquet files of a folder, by name; InputError where there are none."""
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise InputError(f"{directory} holds no *.parquet file; check OTAD_DATA or delete the folder to fetch it again")
    return files
