"""What a data set is, and how its splits are opened."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from otad_ray.artifacts import atomic_directory
from otad_ray.data.rows import ArrayRows, Decoder, ParquetRows, Rows, SubsetRows
from otad_ray.errors import InputError

Split = Literal["train", "fit", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
_VALIDATION_SEED = 0


class Source(Protocol):
    """Where the published parts of a data set come from."""

    def open(self, definition: "DataSet", part: str, cache: Path | None) -> Rows:
        """Rows of the published part "train" or "test"; downloads go to `cache`."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set: all that the rest of the system asks of one.

    shape: of one sample. bounds: least and largest value of an input, or None.
    eps_unit: what a perturbation budget of 1 means, said beside every number.
    class_names: in the order of the labels; empty for regression.
    """

    name: str
    task: Literal["classification", "regression"]
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None
    eps_unit: str
    source: Source

    @property
    def dimension(self) -> int:
        return prod(self.shape)

    @property
    def num_outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.class_names) if self.task == "classification" else 1


def open_split(definition: DataSet, split: Split, *, cache: Path | None = None) -> Rows:
    """Rows of a split; ids are unique within it.

    train: the published training part. validation: a fixed tenth of it, by a seeded permutation of the
    positions, for choosing hyperparameters. fit: the rest of it. test: the published test part.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rows = definition.source.open(definition, "test" if split == "test" else "train", cache)
    if split in ("train", "test"):
        return rows
    order = np.random.default_rng(_VALIDATION_SEED).permutation(len(rows))
    num_validation = len(rows) // 10
    return SubsetRows(rows, order[:num_validation] if split == "validation" else order[num_validation:])


@dataclass(frozen=True)
class EmbeddedSource:
    """A data set that a library carries: `load` returns ids, x and y of a part."""

    library: str
    load: Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]]

    def open(self, definition: DataSet, part: str, cache: Path | None) -> Rows:
        return ArrayRows(*self.load(part), origin=self.library)


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet below `$OTAD_DATA/<name>/<part>/`, else below `<cache>/<name>/<part>/`, where `fetch` puts it.

    fetch: writes both parts into the directory it is given, or raises; what it wrote is used only if it ends.
    """

    decode: Decoder
    fetch: Callable[[Path], None]
    columns: tuple[str, str, str] = ("id", "image", "label")

    def open(self, definition: DataSet, part: str, cache: Path | None) -> Rows:
        files = self._files(definition, part, cache)
        label_range = (0, len(definition.class_names)) if definition.task == "classification" else None
        return ParquetRows(files, columns=self.columns, decode=self.decode, label_range=label_range)

    def _files(self, definition: DataSet, part: str, cache: Path | None) -> list[Path]:
        given = os.environ.get("OTAD_DATA")
        if given:
            directory = Path(given) / definition.name
            if directory.is_dir():
                return _parquet_files(directory / part)
        if cache is None:
            raise InputError(
                f"data set {definition.name!r} is not in OTAD_DATA ({given or 'not set'}) and no cache is given"
            )
        directory = cache / definition.name
        if not directory.is_dir():
            with atomic_directory(directory) as temporary:
                self.fetch(temporary)
        return _parquet_files(directory / part)


def _parquet_files(directory: Path) -> list[Path]:
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise InputError(f"{directory} holds no *.parquet file; check OTAD_DATA or delete the folder to fetch it again")
    return files
