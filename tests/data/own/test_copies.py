"""Copies of files are refused, unless they are meant."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.data import data_set, open_split
from otad_ray.errors import InputError
from otad_ray.presets import Preset


def write(path: Path, rows: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": np.arange(float(rows)), "label": np.arange(rows) % 2}), path)
    return path


@pytest.mark.parametrize("name", ["a (1)", "a copy", "a copy 2", "a - Copy", "a - Copy (3)"])
def test_a_copys_name_beside_its_original_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / f"{name}.parquet", 30)
    with pytest.raises(InputError, match=r"bears the name of a copy of a\.parquet .* --allow-copies"):
        data_set(str(tmp_path))
    (tmp_path / "a.parquet").unlink()
    assert len(open_split(data_set(str(tmp_path)), "train")) == 24


def test_numbered_parts_are_no_copies(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"part ({number}).parquet")
    assert len(open_split(data_set(str(tmp_path)), "train")) == 64


@pytest.mark.parametrize(("train", "test"), [("train/a", "test/b"), ("train-0", "test-0")])
def test_the_same_file_in_train_and_test_is_refused(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / f"{train}.parquet")
    (tmp_path / test).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / f"{train}.parquet", tmp_path / f"{test}.parquet")
    with pytest.raises(InputError, match=r"\(test\) is a byte copy of .* \(train\), so the net is tested on it"):
        data_set(str(tmp_path))
    meant = data_set(str(tmp_path), allow_copies=True)
    assert len(open_split(meant, "test")) == 40
    preset = Preset(name="own", data_set=str(tmp_path), allow_copies=True)
    assert open_split(preset.definition, "train").fingerprint == open_split(meant, "train").fingerprint


def test_equal_files_without_rows_are_no_copies(tmp_path: Path) -> None:
    for part, rows in (("train", 40), ("test", 20)):
        write(tmp_path / part / "a.parquet", rows)
        write(tmp_path / part / "empty.parquet", 0)
    assert len(open_split(data_set(str(tmp_path)), "test")) == 20


def test_copies_are_only_allowed_in_a_directory_of_ones_own() -> None:
    with pytest.raises(InputError, match="allow_copies is for a directory of your own, not for the data set 'digits'"):
        data_set("digits", allow_copies=True)
