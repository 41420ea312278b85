"""A user's own .h5ad file: dense and sparse matrices of counts, and what is refused."""

import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from otad_ray.data import data_set, load_all, open_split
from otad_ray.data.own import h5ad as module
from otad_ray.data.single_cell import normalize_counts
from otad_ray.errors import InputError

COUNTS = np.random.default_rng(0).poisson(1.0, (60, 8)).astype(np.float32)
COUNTS[:, 0] += 1
TYPES = np.array(["rod", "cone", "amacrine"])[np.arange(60) % 3]
FORMS = {"dense": np.asarray, "csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix}


def write(path: Path, x: object = COUNTS, **columns: object) -> Path:
    count = len(TYPES) if x is None else x.shape[0]
    # anndata 0.12.6 reads files under pandas 3, but writes only strings that are objects.
    obs = pd.DataFrame(
        {"cell_type": pd.Series(TYPES[:count], dtype=object).to_numpy(), **columns},
        index=pd.Index([f"cell{row}" for row in range(count)], dtype=object),
    )
    obs = obs.astype({name: object for name in obs if obs[name].dtype == "str"})
    var = pd.DataFrame(index=pd.Index([f"gene{column}" for column in range(8)], dtype=object))
    anndata.AnnData(X=x, obs=obs, var=var).write_h5ad(path)
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
