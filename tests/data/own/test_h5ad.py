"""A user's own .h5ad file: dense and sparse matrices of counts, and what is refused."""

import fcntl
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from otad_ray import machine
from otad_ray.data import data_set, load_all, open_split
from otad_ray.data.own import h5ad as module
from otad_ray.data.single_cell import normalize_counts
from otad_ray.errors import InputError

COUNTS = np.random.default_rng(0).poisson(1.0, (60, 8)).astype(np.float32)
COUNTS[:, 0] += 1
TYPES = np.array(["rod", "cone", "amacrine"])[np.arange(60) % 3]
FORMS = {"dense": np.asarray, "csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix}


def write(path: Path, x: object = COUNTS, compression: str | None = None, **columns: object) -> Path:
    count = len(TYPES) if x is None else x.shape[0]
    # anndata 0.12.6 reads files under pandas 3, but writes only strings that are objects.
    obs = pd.DataFrame(
        {"cell_type": pd.Series(TYPES[:count], dtype=object).to_numpy(), **columns},
        index=pd.Index([f"cell{row}" for row in range(count)], dtype=object),
    )
    obs = obs.astype({name: object for name in obs if obs[name].dtype == "str"})
    var = pd.DataFrame(index=pd.Index([f"gene{column}" for column in range(8)], dtype=object))
    anndata.AnnData(X=x, obs=obs, var=var).write_h5ad(path, compression=compression)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_cells_and_types(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VALUES_PER_CHUNK", 7 * 8)
    path = write(tmp_path / "retina.h5ad", FORMS[form](COUNTS))
    definition = data_set(str(path), label_column="cell_type")
    assert definition.name == "retina"
    assert definition.class_names == ("amacrine", "cone", "rod")
    assert (definition.shape, definition.bounds) == ((8,), None)
    train, test = (load_all(open_split(definition, part)) for part in ("train", "test"))
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == list(range(60))
    assert np.bincount(test.y).tolist() == [4, 4, 4]
    for batch in (train, test):
        np.testing.assert_allclose(batch.x, normalize_counts(COUNTS[batch.ids], origin=""), rtol=1e-6)
        assert [definition.class_names[label] for label in batch.y] == TYPES[batch.ids].tolist()


def test_every_form_is_the_same_data(tmp_path: Path) -> None:
    fingerprints = set()
    for form, make in FORMS.items():
        path = write(tmp_path / f"{form}.h5ad", make(COUNTS.astype(np.int32)))
        fingerprints.add(open_split(data_set(str(path), label_column="cell_type"), "train").fingerprint)
    assert len(fingerprints) == 1


def test_categories_without_cells_are_no_classes_and_integers_keep_their_order(tmp_path: Path) -> None:
    categories = pd.Index(["c", "b", "a", "none"], dtype=object)
    cluster = pd.Categorical(["b", "a", "c"] * 20, categories=categories)
    path = write(tmp_path / "a.h5ad", cluster=cluster, number=[2, 10, 9] * 20)
    assert data_set(str(path), label_column="cluster").class_names == ("a", "b", "c")
    assert data_set(str(path), label_column="number").class_names == ("2", "9", "10")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("celltype", "has no obs column 'celltype'; it has cell_type, score, gaps, one: name one of them with --label"),
        ("score", "obs column 'score' holds float64, need categories, text or integers"),
        ("gaps", "obs column 'gaps' has 20 missing values"),
        ("one", "obs column 'one' has 1 classes, need at least 2"),
    ],
)
def test_refuses_label_columns(tmp_path: Path, column: str, message: str) -> None:
    gaps = pd.Categorical(["a", "b", None] * 20, categories=pd.Index(["a", "b"], dtype=object))
    path = write(tmp_path / "a.h5ad", score=np.arange(60) / 7, gaps=gaps, one=["a"] * 60)
    with pytest.raises(InputError, match=message):
        data_set(str(path), label_column=column)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan])
def test_refuses_what_is_no_count(tmp_path: Path, form: str, value: float) -> None:
    counts = COUNTS.copy()
    counts[33, 4] = value
    path = write(tmp_path / "a.h5ad", FORMS[form](counts))
    with pytest.raises(InputError, match=r"cell 33 holds .* for gene 4, need raw counts"):
        open_split(data_set(str(path), label_column="cell_type"), "train")


def test_refuses_rare_types_and_empty_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5ad", rare=["a"] * 59 + ["b"])
    with pytest.raises(InputError, match="class 'b' has 1 row"):
        open_split(data_set(str(path), label_column="rare"), "train")
    counts = COUNTS.copy()
    counts[5] = 0
    path = write(tmp_path / "b.h5ad", counts)
    with pytest.raises(InputError, match="cell 5 has no counts"):
        open_split(data_set(str(path), label_column="cell_type"), "train")


def test_refuses_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        data_set(str(tmp_path / "missing.h5ad"))
    path = write(tmp_path / "a.h5ad")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"is no readable \.h5ad file"):
        data_set(str(path))
    with h5py.File(path, "w") as file:
        file["counts"] = COUNTS
    with pytest.raises(InputError, match=r"is no readable \.h5ad file .*obs"):
        data_set(str(path))
    with pytest.raises(InputError, match="has no matrix X"):
        data_set(str(write(tmp_path / "b.h5ad", None)), label_column="cell_type")


def test_without_anndata_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5ad")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InputError, match="needs the package anndata: install it, or otad_ray with its extra"):
        data_set(str(path))


def test_a_file_that_another_program_writes_is_refused_as_open(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5ad")
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"a\.h5ad is open in another program, which writes to it; close it there"):
            data_set(str(path), label_column="cell_type")


def damage(path: Path, name: str) -> None:
    """Overwrite the first chunk of a data set of a file."""
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("form", "name"), [("dense", "X"), ("csr", "X/data"), ("csr", "X/indices"), ("csc", "X/indptr")]
)
def test_a_damaged_matrix_is_refused_by_the_files_name(tmp_path: Path, form: str, name: str) -> None:
    path = write(tmp_path / "a.h5ad", FORMS[form](COUNTS), compression="gzip")
    damage(path, name)
    with pytest.raises(InputError, match=r"a\.h5ad: its matrix X cannot be read .*damaged\?"):
        open_split(data_set(str(path), label_column="cell_type"), "train")


def test_indices_outside_of_a_sparse_matrix_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(COUNTS))
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 10_000
    with pytest.raises(InputError, match=r"its matrix X cannot be read"):
        open_split(data_set(str(path), label_column="cell_type"), "train")


def test_rounded_normalized_counts_are_refused(tmp_path: Path) -> None:
    counts = np.random.default_rng(1).poisson(np.linspace(20, 90, 60)[:, None], (60, 8))
    scaled = np.round(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32)
    path = write(tmp_path / "a.h5ad", scaled)
    with pytest.raises(InputError, match=r"60 of 60 cells have the same total of about 10000, .* need raw counts"):
        open_split(data_set(str(path), label_column="cell_type"), "train")


@pytest.mark.parametrize("mean", [0.5, 2.0, 500.0])
def test_raw_counts_of_equal_depth_are_read(tmp_path: Path, mean: float) -> None:
    counts = 1 + np.random.default_rng(1).poisson(mean, (60, 8))
    path = write(tmp_path / "a.h5ad", counts.astype(np.float32))
    assert len(open_split(data_set(str(path), label_column="cell_type"), "train")) == 48


def test_cells_sampled_down_to_one_total_are_read(tmp_path: Path) -> None:
    counts = np.random.default_rng(1).multinomial(100, np.full(8, 1 / 8), 60)
    path = write(tmp_path / "a.h5ad", counts.astype(np.float32))
    assert len(open_split(data_set(str(path), label_column="cell_type"), "train")) == 48


def test_cells_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5ad")
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    with pytest.raises(
        InputError, match=r"48 cells of 8 genes as float32 need 1\.5 kB, 1\.0 kB are available; keep fewer"
    ):
        open_split(data_set(str(path), label_column="cell_type"), "train")


def test_what_the_file_holds_besides_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5ad", batch=["b"] * 60)
    notes = data_set(str(path), label_column="cell_type").notes
    assert notes.left_out == ("obs column batch",)
    assert notes.used[0] == "X (float32, as counts)"
