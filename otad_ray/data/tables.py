"""Tables read whole into memory: decoders of columns of numbers, data sets without a published split, and wine."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from otad_ray.data.definition import DataFolders, DataSet, find_folder, parquet_files
from otad_ray.data.downloads import Remote, download
from otad_ray.data.parquet.files import read_columns
from otad_ray.data.parquet.rows import Decoder
from otad_ray.data.parquet.types import read_lists, read_numbers
from otad_ray.data.rows import ArrayRows, Rows
from otad_ray.data.splits import TrainTest
from otad_ray.errors import InputError

WINE_FEATURES = (
    "fixed acidity",
    "volatile acidity",
    "citric acid",
    "residual sugar",
    "chlorides",
    "free sulfur dioxide",
    "total sulfur dioxide",
    "density",
    "pH",
    "sulphates",
    "alcohol",
)
_WINE_TARGET = "quality"
WINE_FILE = Remote(
    "https://archive.ics.uci.edu/ml/machine-learning-databases/wine-quality/winequality-red.csv",
    "sha256:4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e",
)


class Table(NamedTuple):
    """x (n, D), y (n,) int64 or float32; a row's id is its position."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Parquet files in one folder, without a published split.

    folder: below the given folder, else below the cache, where `fetch` puts it. read: the rows of all files, checked.
    split: positions of both parts from x and y. scale: of x by what its training rows, at the positions given, are.
    """

    folder: str
    fetch: Callable[[Path], None]
    read: Callable[[list[Path]], Table]
    split: Callable[[np.ndarray, np.ndarray], TrainTest]
    scale: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
        folder = find_folder(self.folder, folders, self.fetch)
        table = self.read(parquet_files(folder))
        train, test = self.split(table.x, table.y)
        ids = test if part == "test" else train
        x = table.x if self.scale is None else self.scale(table.x, train)
        return ArrayRows(ids, x[ids], table.y[ids], origin=str(folder))


def standardize(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Each column less its mean and over its standard deviation, both of the training rows."""
    return ((x - x[train].mean(0)) / x[train].std(0)).astype(np.float32)


def feature_values(names: Sequence[str]) -> Decoder:
    """Return a decoder of one column of numbers a feature: float32 (n, D)."""

    def decode(table: pa.Table) -> np.ndarray:
        return np.stack([read_numbers(table[name]).astype(np.float32) for name in names], axis=1)

    return decode


def list_values(column: str, shape: tuple[int, ...]) -> Decoder:
    """Return a decoder of a column of lists or tensors of numbers: float32 (n, *shape)."""

    def decode(table: pa.Table) -> np.ndarray:
        return read_lists(table[column], column, prod(shape)).astype(np.float32).reshape(-1, *shape)

    return decode


def read_wine(files: list[Path]) -> Table:
    """The eleven measurements, float64, and the quality score as it is."""
    columns = read_columns(files, (*WINE_FEATURES, _WINE_TARGET))
    values = np.stack([column.to_numpy().astype(np.float64) for column in columns.columns], axis=1)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise InputError(f"{files[0].parent}: row {bad[0]} holds missing, NaN or infinite values; repair the file")
    return Table(values[:, :-1], values[:, -1].astype(np.float32))


def fetch_wine(directory: Path, *, file: Remote = WINE_FILE) -> None:
    """Red wine quality (Cortez et al. 2009) from the UCI repository, in the order of the file."""
    instead = "wine_quality_red/*.parquet with the columns of the published file"
    with tempfile.TemporaryDirectory(dir=directory) as downloads:
        path = download(file, Path(downloads), instead=instead)
        table = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(delimiter=";"))
    pq.write_table(table, directory / "winequality-red.parquet", compression="zstd")
