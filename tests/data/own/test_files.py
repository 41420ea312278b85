"""Which files of a folder are read, and how their names divide them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.data import DataSet, data_set, load_all, open_split
from otad_ray.errors import InputError

# Rows of a held-out file are marked by this value.
MARK = 1000.0


def write(path: Path, rows: int = 40, mark: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": mark + np.arange(rows) / 100, "label": np.arange(rows) % 2}), path)
    return path


def values(definition: DataSet, part: str) -> np.ndarray:
    return load_all(open_split(definition, part)).x[:, 0].numpy()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("train.parquet", "test.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("Train/a.parquet", "Test/a.parquet"),
        ("data/train/a.parquet", "data/test/a.parquet"),
        ("train.parquet/part-0.parquet", "test.parquet/part-0.parquet"),
        ("wineTrain.parquet", "wineTest.parquet"),
        ("train-0.parquet", "validation-0.parquet"),
        ("train/a.parquet", "val/a.parquet"),
    ],
)
def test_published_test_rows_are_not_trained_on(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / train, 80)
    write(tmp_path / test, 20, MARK)
    definition = data_set(str(tmp_path))
    assert len(values(definition, "train")) == 80
    assert values(definition, "train").max() < MARK / 2
    assert values(definition, "test").min() >= MARK


def test_a_validation_part_beside_a_test_part_is_named_and_not_read(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet")
    write(tmp_path / "test-0.parquet", mark=MARK)
    write(tmp_path / "validation-0.parquet", mark=2 * MARK)
    definition = data_set(str(tmp_path))
    assert values(definition, "test").max() < 2 * MARK
    assert definition.notes.left_out == ("validation-0.parquet (our validation is a tenth of train)",)


@pytest.mark.parametrize("names", [("test.parquet", "a.parquet"), ("train.parquet", "test.parquet", "more.parquet")])
def test_a_file_whose_split_is_open_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / name, mark=number)
    with pytest.raises(InputError, match=r"names a split, but of (a|more)\.parquet it is open"):
        data_set(str(tmp_path))


def test_files_of_one_split_alone_are_split(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet")
    assert len(open_split(data_set(str(tmp_path)), "test")) == 8


def test_a_column_says_the_split(tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(10.0), "split": ["train", "test"] * 5, "label": [0, 0, 1, 1, 0] * 2})
    pq.write_table(table, tmp_path / "a.parquet")
    definition = data_set(str(tmp_path))
    assert values(definition, "train").tolist() == [0, 2, 4, 6, 8]
    assert values(definition, "test").tolist() == [1, 3, 5, 7, 9]
    assert definition.notes.layout == "train and test by the column 'split'"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0, 1] * 5, "column 'split' holds int64, which does not say what is train"),
        (["train", "holdout"] * 5, "column 'split' says holdout, train; need train and test"),
        (["train", None] * 5, "column 'split' says None, train"),
    ],
)
def test_a_split_column_that_is_not_understood_is_refused(tmp_path: Path, column: list, message: str) -> None:
    pq.write_table(pa.table({"a": np.arange(10.0), "split": column, "label": [0, 1] * 5}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        data_set(str(tmp_path))


@pytest.mark.parametrize("name", ["._a.parquet", ".a.parquet", "_tmp.parquet", ".nfs0000.parquet", ".check/a.parquet"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "broken"])
def test_hidden_and_temporary_files_are_skipped(tmp_path: Path, name: str, whole: bool) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / name)
    if not whole:
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    assert len(open_split(data_set(str(tmp_path)), "train")) == 32


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").touch()
    with pytest.raises(InputError, match=r"b\.parquet is no readable Parquet file"):
        data_set(str(tmp_path))


def test_files_of_other_endings_and_folders_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.PARQUET", "c.parq", "more/a.parquet"):
        write(tmp_path / name)
    (tmp_path / "labels.csv").write_text("label,name\n0,a\n1,b\n")
    assert data_set(str(tmp_path)).notes.left_out == (
        "b.PARQUET, c.parq (need the ending .parquet)",
        "more/ (1 Parquet files)",
    )


def test_what_a_folder_without_data_holds_is_said(tmp_path: Path) -> None:
    write(tmp_path / "endings" / "part-0.parq")
    with pytest.raises(InputError, match=r"holds no \*\.parquet file \(found part-0\.parq \(need the ending"):
        data_set(str(tmp_path / "endings"))
    write(tmp_path / "hive" / "label=0" / "a.parquet")
    with pytest.raises(InputError, match="divided into folders such as label=0/"):
        data_set(str(tmp_path / "hive"))


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("Train", "TRAIN", "test"):
        write(tmp_path / name / "a.parquet")
    with pytest.raises(InputError, match="several folders for train: TRAIN, Train"):
        data_set(str(tmp_path))
