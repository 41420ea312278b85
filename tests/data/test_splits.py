"""Data sets: fixed splits, and refusals of files that cannot be trusted."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from otad_ray.data import DATA_SETS, DataFolders, DataSet, data_set, load_all, open_split
from otad_ray.data.definition import ParquetSource
from otad_ray.data.images import raw_pixels, write_pixels
from otad_ray.data.parquet.rows import Columns
from otad_ray.data.rows import iterate
from otad_ray.errors import InputError


def write_images(path: Path, count: int, *, first_id: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
    """`count` random 2 x 2 images; their pixels."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 4), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": np.arange(first_id, first_id + count),
            "image": pa.array([row.tobytes() for row in pixels], pa.binary(4)),
            "label": np.arange(count) % 3 if labels is None else labels,
        }
    )
    pq.write_table(table, path, row_group_size=7)
    return pixels


def no_fetch(directory: Path) -> None:
    raise InputError("cannot fetch")


def tiny(fetch=no_fetch) -> DataSet:
    return DataSet(
        name="tiny",
        task="classification",
        class_names=("a", "b", "c"),
        shape=(1, 2, 2),
        bounds=(0.0, 1.0),
        eps_unit="pixels",
        source=ParquetSource(decode=raw_pixels((1, 2, 2)), fetch=fetch),
    )


@pytest.fixture
def tiny_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OTAD_DATA", str(tmp_path))
    return tmp_path / "tiny"


def test_digits() -> None:
    digits = data_set("digits")
    train, test = (load_all(open_split(digits, split)) for split in ("train", "test"))
    assert (len(train.ids), len(test.ids)) == (1437, 360)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert np.bincount(test.y).min() >= 34
    published = load_digits()
    torch.testing.assert_close(test.x[:, 0].double(), torch.from_numpy(published.images / 16)[test.ids])
    np.testing.assert_array_equal(test.y, published.target[test.ids])
    assert train.x.min() == 0
    assert train.x.max() == 1


def test_validation_is_a_fixed_tenth_of_the_training_part() -> None:
    digits = data_set("digits")
    fit, validation = (load_all(open_split(digits, split)) for split in ("fit", "validation"))
    assert len(validation.ids) == 143
    train_ids = sorted(load_all(open_split(digits, "train")).ids.tolist())
    assert sorted(fit.ids.tolist() + validation.ids.tolist()) == train_ids
    fingerprints = [open_split(digits, split).fingerprint[:16] for split in ("train", "fit", "validation", "test")]
    assert fingerprints == ["c89b0454678b6324", "3cabae039a860b8d", "ac6444fa97fe27a2", "a1a639995b1e09fa"]


def test_parquet_rows_across_files_and_row_groups(tiny_data: Path) -> None:
    first = write_images(tiny_data / "train" / "a.parquet", 20)
    second = write_images(tiny_data / "train" / "b.parquet", 11, first_id=20)
    rows = open_split(tiny(), "train")
    everything = load_all(rows)
    assert everything.ids.tolist() == list(range(31))
    pixels = np.concatenate([first, second]).reshape(-1, 1, 2, 2) / 255
    np.testing.assert_allclose(everything.x, pixels, atol=1e-7)
    some = rows.take(np.array([0, 6, 7, 19, 20, 30]))
    assert some.ids.tolist() == [0, 6, 7, 19, 20, 30]
    torch.testing.assert_close(some.x, everything.x[some.ids])
    assert torch.equal(torch.cat([batch.ids for batch in iterate(rows, 8)]), everything.ids)


def test_fingerprint_follows_the_content(tiny_data: Path) -> None:
    write_images(tiny_data / "train" / "a.parquet", 20)
    before = open_split(tiny(), "train").fingerprint
    assert open_split(tiny(), "train").fingerprint == before
    write_images(tiny_data / "train" / "a.parquet", 21)
    assert open_split(tiny(), "train").fingerprint != before


def test_refuses_repeated_ids_across_files(tiny_data: Path) -> None:
    write_images(tiny_data / "train" / "a.parquet", 20)
    write_images(tiny_data / "train" / "b.parquet", 5, first_id=18)
    with pytest.raises(InputError, match=r"2 ids occur more than once, first \[18, 19\]"):
        open_split(tiny(), "train").check()


def test_refuses_labels_out_of_range(tiny_data: Path) -> None:
    write_images(tiny_data / "train" / "a.parquet", 3, labels=np.array([0, 3, 1]))
    with pytest.raises(InputError, match=r"label 3 of id 1 is outside 0\.\.2"):
        open_split(tiny(), "train").check()


def test_refuses_missing_columns_and_rows(tiny_data: Path) -> None:
    (tiny_data / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no"):
        open_split(tiny(), "train")
    pq.write_table(pa.table({"id": [1], "label": [0]}), tiny_data / "train" / "a.parquet")
    with pytest.raises(InputError, match="lacks column 'image'; it has id, label"):
        open_split(tiny(), "train")
    write_images(tiny_data / "train" / "a.parquet", 0)
    with pytest.raises(InputError, match="holds no rows"):
        open_split(tiny(), "train")


@pytest.mark.parametrize("keep", [0, 40, -20])
def test_refuses_truncated_files(tiny_data: Path, keep: int) -> None:
    path = tiny_data / "train" / "a.parquet"
    write_images(path, 20)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="truncated"):
        open_split(tiny(), "train")


def test_refuses_missing_values(tiny_data: Path) -> None:
    (tiny_data / "train").mkdir(parents=True)
    table = pa.table({"id": [1, 2], "image": pa.array([b"abcd", b"abcd"], pa.binary(4)), "label": [0, None]})
    pq.write_table(table, tiny_data / "train" / "a.parquet")
    with pytest.raises(InputError, match="column 'label' has 1 missing"):
        open_split(tiny(), "train").check()


def test_a_failed_fetch_leaves_no_cache(tmp_path: Path) -> None:
    def half_way(directory: Path) -> None:
        write_images(directory / "train" / "part-0.parquet", 5)
        raise InputError("connection lost")

    with pytest.raises(InputError, match="connection lost"):
        open_split(tiny(half_way), "train", DataFolders(cache=tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_fetch_is_made_once(tmp_path: Path) -> None:
    calls = []

    def fetch(directory: Path) -> None:
        calls.append(directory)
        write_images(directory / "train" / "part-0.parquet", 5)
        write_images(directory / "test" / "part-0.parquet", 2)

    assert len(open_split(tiny(fetch), "train", DataFolders(cache=tmp_path))) == 5
    assert len(open_split(tiny(fetch), "test", DataFolders(cache=tmp_path))) == 2
    assert len(calls) == 1


def test_mnist_that_is_not_mnist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = SimpleNamespace(data=np.zeros((70000, 784)), target=np.full(70000, "0"))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *args, **kwargs: bunch)
    with pytest.raises(InputError, match="SHA-256"):
        open_split(data_set("mnist"), "train", DataFolders(cache=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_mnist_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(InputError, match="set OTAD_DATA"):
        open_split(data_set("mnist"), "train", DataFolders(cache=tmp_path))


def test_only_the_expected_pixels_and_labels_are_written(tmp_path: Path) -> None:
    pixels, labels = np.arange(24, dtype=np.uint8).reshape(6, 4), np.arange(6)
    digests = tuple(hashlib.sha256(array.astype(np.uint8).tobytes()).hexdigest() for array in (pixels, labels))
    for wrong in (("0" * 64, digests[1]), (digests[0], "0" * 64)):
        with pytest.raises(InputError, match="expected 000"):
            write_pixels(tmp_path / "train", pixels, labels, expected=wrong)
        assert not (tmp_path / "train").exists()
    write_pixels(tmp_path / "train", pixels, labels, expected=digests)
    table = pq.read_table(tmp_path / "train" / "part-0.parquet")
    assert b"".join(table["image"].to_pylist()) == pixels.tobytes()
    assert table["label"].to_pylist() == labels.tolist()


def test_a_data_folder_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTAD_DATA", str(tmp_path / "dta"))
    with pytest.raises(InputError, match="which is no folder"):
        DataFolders.from_environment()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTAD_DATA", ".")
    assert DataFolders.from_environment().given == tmp_path


def test_a_data_folder_may_be_a_file_address_but_no_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTAD_DATA", tmp_path.as_uri())
    assert DataFolders.from_environment().given == tmp_path
    monkeypatch.setenv("OTAD_DATA", "s3://bucket/data")
    with pytest.raises(InputError, match=r"OTAD_DATA.*s3://bucket/data"):
        DataFolders.from_environment()
    with pytest.raises(InputError, match=r"the data set.*s3://bucket/data"):
        data_set("s3://bucket/data")


IMAGE = pa.array([b"abcd", b"abcd"], pa.binary())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "b"]}, "column 'id' holds string, need integers"),
        ({"id": [0.2, 0.7]}, "column 'id' holds double, need integers"),
        ({"label": [0.0, 1.7]}, "column 'label' holds double, need integers"),
        ({"image": pa.array([b"abcd", None], pa.binary())}, "column 'image' has 1 missing"),
        ({"image": pa.array([b"abc", b"abcde"], pa.binary())}, "needs 4 bytes a sample .* found 3 bytes"),
        ({"image": [[0.5], [0.5]]}, "needs 4 bytes a sample .* found a list"),
        ({"image": pa.array([b"abcdabcd"] * 2, pa.binary())}, "needs 4 bytes a sample .* found 8 bytes"),
    ],
)
def test_refuses_columns_that_would_be_misread(tiny_data: Path, columns: dict, message: str) -> None:
    (tiny_data / "train").mkdir(parents=True)
    table = pa.table({"id": [1, 2], "image": IMAGE, "label": [0, 1], **columns})
    pq.write_table(table, tiny_data / "train" / "a.parquet")
    with pytest.raises(InputError, match=message):
        open_split(tiny(), "train").check()


def test_refuses_a_damaged_page(tiny_data: Path) -> None:
    path = tiny_data / "train" / "a.parquet"
    write_images(path, 500)
    damaged = bytearray(path.read_bytes())
    damaged[100:2000] = b"\xff" * 1900
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match="cannot be read"):
        open_split(tiny(), "train").check()


def test_refuses_samples_that_are_not_finite(tiny_data: Path) -> None:
    def decode(table: pa.Table) -> np.ndarray:
        return np.array(table["value"].to_pylist(), dtype=np.float32)[:, None]

    (tiny_data / "train").mkdir(parents=True)
    pq.write_table(
        pa.table({"id": [4, 5], "value": [1.0, float("nan")], "label": [0, 1]}), tiny_data / "train" / "a.parquet"
    )
    source = ParquetSource(decode=decode, fetch=no_fetch, columns=Columns(sample=("value",)))
    with pytest.raises(InputError, match="id 5 holds NaN"):
        open_split(replace(tiny(), source=source), "train").check()


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown data set 'mnits'; known: digits, mnist"):
        data_set("mnits")
    with pytest.raises(InputError, match="unknown split 'dev'; known: train, fit, validation, test"):
        open_split(data_set("digits"), "dev")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DATA_SETS)
def test_definitions_are_complete(name: str) -> None:
    definition = DATA_SETS[name]
    assert definition.eps_unit
    assert definition.num_outputs == (len(definition.class_names) or 1)
    assert (definition.task == "regression") == (not definition.class_names)
    assert definition.dimension == int(np.prod(definition.shape))
