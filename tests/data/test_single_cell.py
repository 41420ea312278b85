"""Counts of single cells: scaling, the fixed split of CITE-seq whatever the order of the file, and its download."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch

from otad_ray.data import SPLITS, data_set, load_all, open_split
from otad_ray.data.single_cell import fetch_citeseq, normalize_counts
from otad_ray.data.splits import stratified_split
from otad_ray.errors import InputError

MOUSE, UNKNOWN = 9, 11


def cells(count: int = 390) -> tuple[np.ndarray, np.ndarray]:
    counts = np.random.default_rng(0).poisson(0.4, (count, 500)).astype(np.int32)
    return counts, np.arange(count) % 13


def write(path: Path, counts: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(counts.ravel()), counts.shape[1])
    pq.write_table(pa.table({"id": np.arange(len(labels)), "counts": lists, "label": labels}), path)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OTAD_DATA", str(tmp_path))
    path = tmp_path / "citeseq_cbmc" / "cells.parquet"
    write(path, *cells())
    return path


def test_normalized_counts_in_closed_form() -> None:
    # One gene with all counts, and two with half of them each.
    np.testing.assert_allclose(normalize_counts(np.array([[0, 7, 0]]), origin=""), [[0, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(normalize_counts(np.array([[3, 0, 3]]), origin=""), [[0.5**0.5, 0, 0.5**0.5]], rtol=1e-6)
    one, three = np.log(1 + 2500), np.log(1 + 7500)
    norm = np.hypot(one, three)
    np.testing.assert_allclose(normalize_counts(np.array([[1, 3]]), origin=""), [[one / norm, three / norm]], rtol=1e-6)
    counts = np.random.default_rng(0).poisson(2.0, (20, 30))
    scaled = normalize_counts(counts, origin="")
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(normalize_counts(5 * counts, origin=""), scaled, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "cell 11 holds -1 for gene 2"), (0.5, "holds 0.5"), (np.nan, "holds nan"), (np.inf, "holds inf")],
)
def test_values_that_are_no_counts_are_refused(value: float, message: str) -> None:
    counts = np.ones((3, 4))
    counts[1, 2] = value
    with pytest.raises(InputError, match=message + ".*need raw counts"):
        normalize_counts(counts, origin="file", first_row=10)


def test_cells_without_counts_are_refused() -> None:
    with pytest.raises(InputError, match="file: cell 1 has no counts"):
        normalize_counts(np.array([[1, 0], [0, 0]]), origin="file")


def test_citeseq(file: Path) -> None:
    definition = data_set("citeseq_cbmc")
    rows = {split: load_all(open_split(definition, split)) for split in SPLITS}
    assert [len(rows[split].ids) for split in SPLITS] == [264, 238, 26, 66]
    assert np.bincount(rows["test"].y).tolist() == [6] * 11
    assert definition.class_names[9:] == ("NK", "pDC")
    # Mouse and Unknown are gone, and a cell keeps its type: types by the cell's values.
    counts, labels = cells()
    names = {tuple(row): label for row, label in zip(normalize_counts(counts, origin=""), labels, strict=True)}
    found = [names[tuple(row)] for split in ("train", "test") for row in rows[split].x.numpy()]
    assert sorted(found) == sorted(labels[~np.isin(labels, (MOUSE, UNKNOWN))])
    kept = [label for label in range(13) if label not in (MOUSE, UNKNOWN)]
    assert [kept.index(label) for label in found] == [*rows["train"].y.tolist(), *rows["test"].y.tolist()]


def test_the_order_of_the_file_does_not_matter(file: Path) -> None:
    definition = data_set("citeseq_cbmc")
    before = {split: open_split(definition, split).fingerprint for split in SPLITS}
    order = np.random.default_rng(5).permutation(390)
    write(file, *(array[order] for array in cells()))
    assert {split: open_split(definition, split).fingerprint for split in SPLITS} == before


def test_the_split_is_fixed_for_good(file: Path) -> None:
    ids = b"".join(load_all(open_split(data_set("citeseq_cbmc"), part)).ids.numpy().tobytes() for part in SPLITS)
    assert hashlib.sha256(ids).hexdigest()[:16] == "2890ec5c006f3ea3"
    _, test = stratified_split(np.zeros(100), np.arange(100) % 4)
    assert np.bincount(test % 4).tolist() == [5] * 4


def test_refusals(file: Path) -> None:
    counts, labels = cells()
    for changed, message in (
        ((counts[:, :400], labels), "needs 500 values a row, found 400"),
        ((counts, labels + 1), r"label 13 is outside 0\.\.12"),
        ((counts - 1, labels), "need raw counts"),
    ):
        write(file, *changed)
        with pytest.raises(InputError, match=message):
            open_split(data_set("citeseq_cbmc"), "train")


def matlab(**variables: np.ndarray) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables)
    return stream.getvalue()


def test_the_published_files_give_the_same_rows(publisher, file: Path, tmp_path: Path) -> None:
    counts, labels = cells()
    order = sorted(range(len(counts)), key=lambda row: hashlib.sha256(counts[row].tobytes()).digest())
    arrays = (counts[order], labels[order].astype(np.uint8))
    digests = tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)
    files = {
        "counts_file": replace(publisher.publish("counts.mat", matlab(G=counts.T.astype(np.uint16))), hash=None),
        "labels_file": replace(publisher.publish("labels.mat", matlab(labels=labels[:, None] + 1)), hash=None),
    }
    definition = data_set("citeseq_cbmc")
    before = open_split(definition, "train")
    file.unlink()
    fetch_citeseq(file.parent, **files, digests=digests)
    after = open_split(definition, "train")
    assert after.fingerprint == before.fingerprint
    torch.testing.assert_close(load_all(after).x, load_all(before).x, rtol=0, atol=0)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"the counts have SHA-256 .* nothing was kept"):
        fetch_citeseq(tmp_path / "other", **files)
    assert list((tmp_path / "other").iterdir()) == []
