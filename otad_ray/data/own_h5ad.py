"""A user's own single-cell data: an .h5ad file of raw counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otad_ray.data.definition import DataFolders, DataSet
from otad_ray.data.rows import ArrayRows, Rows
from otad_ray.data.single_cell import EPS_UNIT, normalize_counts
from otad_ray.data.splits import check_class_sizes, stratified_split
from otad_ray.errors import InputError

_VALUES_PER_CHUNK = 2**22


@dataclass(frozen=True)
class OwnH5adSource:
    """Cells of a file, split 80/20 by class; their ids are their positions in it."""

    path: Path
    label_column: str

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
        with _opened(self.path) as cells:
            names, labels = _labels(self.path, cells, self.label_column)
            check_class_sizes(labels, names, origin=str(self.path))
            train, test = stratified_split(labels, labels)
            ids = test if part == "test" else train
            return ArrayRows(
                ids, _normalized(self.path, _matrix(self.path, cells), ids), labels[ids], origin=str(self.path)
            )


def own_h5ad(path: Path, label_column: str) -> DataSet:
    """The data set in an .h5ad file: X holds raw counts (cells x genes), the obs column `label_column` the classes.

    Classes are the column's values in sorted order. Raises InputError where the file cannot be read, or the column is
    missing or holds real numbers, or anndata is not installed.
    """
    with _opened(path) as cells:
        names, _ = _labels(path, cells, label_column)
        num_genes = _matrix(path, cells).shape[1]
    return DataSet(
        name=path.stem,
        task="classification",
        class_names=names,
        shape=(num_genes,),
        bounds=None,
        eps_unit=EPS_UNIT,
        source=OwnH5adSource(path, label_column),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file with its matrix left on disk."""
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        import anndata
    except ImportError:
        raise InputError(
            f"{path} needs the package anndata: install it, or otad_ray with its extra single-cell"
        ) from None
    try:
        cells = anndata.read_h5ad(path, backed="r")
    except Exception as error:  # Among them one that anndata does not export, for formats newer than itself.
        raise InputError(f"{path} is no readable .h5ad file ({error}); truncated? write it again") from error
    try:
        yield cells
    finally:
        cells.file.close()


def _labels(path: Path, cells: Any, label_column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the class of each cell (n,) int64."""
    if label_column not in cells.obs:
        columns = ", ".join(cells.obs) or "none"
        raise InputError(
            f"{path} has no obs column {label_column!r}; it has {columns}: name one of them with --label-column"
        )
    column = cells.obs[label_column]
    missing = int(column.isna().sum())
    if missing:
        raise InputError(f"{path}: obs column {label_column!r} has {missing} missing values; remove those cells")
    if column.dtype.kind == "f":
        raise InputError(f"{path}: obs column {label_column!r} holds {column.dtype}, need categories, text or integers")
    values, labels = np.unique(column.to_numpy(), return_inverse=True)
    if len(values) < 2:
        raise InputError(f"{path}: obs column {label_column!r} has {len(values)} classes, need at least 2")
    return tuple(str(value) for value in values), labels.astype(np.int64)


def _matrix(path: Path, cells: Any) -> Any:
    """X (cells, genes), still on disk."""
    try:
        return cells.X
    except KeyError:
        raise InputError(f"{path} has no matrix X; put the raw counts there") from None


def _normalized(path: Path, matrix: Any, positions: np.ndarray) -> np.ndarray:
    """Normalized cells at ascending positions: the only dense copy, filled a chunk of rows at a time."""
    # Sparse matrices fit into memory, and only there can those stored by columns be read by rows.
    if hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory().tocsr()
    cells = np.empty((len(positions), matrix.shape[1]), dtype=np.float32)
    num_rows = max(1, _VALUES_PER_CHUNK // matrix.shape[1])
    for start in range(0, matrix.shape[0], num_rows):
        inside = (positions >= start) & (positions < start + num_rows)
        chunk = matrix[start : start + num_rows]
        counts = chunk.toarray() if hasattr(chunk, "toarray") else chunk
        cells[inside] = normalize_counts(counts, origin=str(path), first_row=start)[positions[inside] - start]
    return cells
