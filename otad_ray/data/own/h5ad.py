"""A user's own single-cell data: an .h5ad file of raw counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otad_ray.data.definition import DataFolders, DataSet, SourceNotes
from otad_ray.data.rows import ArrayRows, Rows
from otad_ray.data.single_cell import EPS_UNIT, normalize_counts
from otad_ray.data.splits import check_class_sizes, stratified_split
from otad_ray.errors import InputError
from otad_ray.machine import require_memory

_VALUES_PER_CHUNK = 2**22
# Totals of fewer cells say nothing of how they were made.
_MIN_CELLS = 20


@dataclass(frozen=True)
class OwnH5adSource:
    """Cells of a file, split 80/20 by class; their ids are their positions in it."""

    path: Path
    label_column: str

    def open(self, definition: DataSet, part: str, folders: DataFolders) -> Rows:
        """Return the normalized cells of the part "train" or "test"."""
        with _opened(self.path) as cells:
            names, labels = _labels(self.path, cells, self.label_column)
            check_class_sizes(labels, names, origin=str(self.path))
            train, test = stratified_split(labels, labels)
            ids = test if part == "test" else train
            return ArrayRows(
                ids, _normalized(self.path, _matrix(self.path, cells), ids), labels[ids], origin=str(self.path)
            )


def own_h5ad(path: Path, label_column: str) -> DataSet:
    """Return the data set in an .h5ad file: X holds raw counts (cells x genes), an obs column the classes.

    Args:
        path: the file.
        label_column: the obs column; classes are its values in sorted order.

    Raises:
        InputError: if the file cannot be read, the column is missing or holds real numbers, or anndata is not
            installed.
    """
    with _opened(path) as cells:
        names, _ = _labels(path, cells, label_column)
        matrix = _matrix(path, cells)
        num_genes = matrix.shape[1]
        notes = _make_notes(cells, matrix, label_column)
    return DataSet(
        name=path.stem,
        task="classification",
        class_names=names,
        shape=(num_genes,),
        bounds=None,
        eps_unit=EPS_UNIT,
        source=OwnH5adSource(path, label_column),
        notes=notes,
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the file, with its matrix left on disk."""
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
        if _is_locked(error):
            raise InputError(
                f"{path} is open in another program, which writes to it; close it there (a notebook?), then try again"
            ) from error
        raise InputError(f"{path} is no readable .h5ad file ({error}); truncated? write it again") from error
    try:
        yield cells
    finally:
        cells.file.close()


def _is_locked(error: BaseException | None) -> bool:
    """Return whether an error says, or was caused by one that says, that another process has locked the file."""
    while error is not None:
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turn what HDF5 and SciPy raise for a damaged part of the matrix into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: its matrix X cannot be read ({error}); damaged? fetch or write the file again"
        ) from error


def _make_notes(cells: Any, matrix: Any, label_column: str) -> SourceNotes:
    others = [name for name in cells.obs if name != label_column]
    kept = [*(f"obs column {name}" for name in others), *(f"layer {name}" for name in cells.layers)]
    if cells.raw is not None:
        kept.append("raw")
    return SourceNotes(
        layout="split 80/20 by class, always the same way",
        used=(f"X ({matrix.dtype}, as counts)", f"{label_column} ({cells.obs[label_column].dtype})"),
        left_out=tuple(kept),
    )


def _labels(path: Path, cells: Any, label_column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names, and the class of each cell (n,) int64."""
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
    """Return X (cells, genes), still on disk."""
    try:
        return cells.X
    except KeyError:
        raise InputError(f"{path} has no matrix X; put the raw counts there") from None


def _normalized(path: Path, matrix: Any, positions: np.ndarray) -> np.ndarray:
    """Return normalized cells at ascending positions: the only dense copy, filled a chunk of rows at a time."""
    require_memory(
        4 * len(positions) * matrix.shape[1],
        what=f"{path}: {len(positions)} cells of {matrix.shape[1]} genes as float32",
        advice="keep fewer genes, such as the most variable ones, or fewer cells",
    )
    with _refusing_damage(path):
        # Sparse matrices fit into memory, and only there can those stored by columns be read by rows.
        if hasattr(matrix, "to_memory"):
            matrix = matrix.to_memory()
            # Indices of a damaged file would lead outside of the arrays.
            matrix.check_format(full_check=True)
            matrix = matrix.tocsr()
        cells = np.empty((len(positions), matrix.shape[1]), dtype=np.float32)
        totals = []
        num_rows = max(1, _VALUES_PER_CHUNK // matrix.shape[1])
        for start in range(0, matrix.shape[0], num_rows):
            inside = (positions >= start) & (positions < start + num_rows)
            chunk = matrix[start : start + num_rows]
            counts = chunk.toarray() if hasattr(chunk, "toarray") else chunk
            cells[inside] = normalize_counts(counts, origin=str(path), first_row=start)[positions[inside] - start]
            totals.append(counts.sum(1, dtype=np.float64))
    _refuse_scaled(path, np.concatenate(totals))
    return cells


def _refuse_scaled(path: Path, totals: np.ndarray) -> None:
    """Refuse whole numbers that are no counts: those of cells that were scaled to one total, and then rounded.

    Raw totals (n,) vary at least as counting does, with a variance as large as their mean: a fifth of them lies within
    a quarter of a standard deviation of their median. Cells that were all sampled down to one total are raw counts.
    """
    if len(totals) < _MIN_CELLS or np.ptp(totals) == 0:
        return
    median = np.median(totals)
    near = np.abs(totals - median) <= np.sqrt(median) / 4
    if near.mean() > 0.5:
        raise InputError(
            f"{path}: {int(near.sum())} of {len(totals)} cells have the same total of about {median:.0f}, so that X "
            "seems to hold normalized values, rounded; need raw counts: put those into X (they may be in "
            "layers or in raw)"
        )
