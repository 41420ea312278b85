"""Presets: every data set has one, and a user's own data is found from any process."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.data import DATA_SETS, open_split
from otad_ray.errors import InputError
from otad_ray.presets import PRESETS, find_preset


def test_every_data_set_has_a_preset_of_its_name() -> None:
    assert {preset.name: preset.data_set for preset in PRESETS.values()} == {name: name for name in DATA_SETS}
    for preset in PRESETS.values():
        assert preset.definition.name == preset.data_set


def test_own_data_is_found_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cars").mkdir()
    table = pa.table({"price": np.arange(50) / 3, "weight": np.arange(50)})
    pq.write_table(table, tmp_path / "cars" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    preset = replace(find_preset("digits"), data_set="cars", label_column="price")
    assert preset.data_set == str(tmp_path / "cars")
    before = open_split(preset.definition, "train").fingerprint
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(preset))
    assert again == preset
    assert again.definition.task == "regression"
    assert open_split(again.definition, "train").fingerprint == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_set": "mnits"}, "unknown data set 'mnits'; known: digits, mnist"),
        ({"data_set": "./missing"}, "missing does not exist"),
        ({"label_column": "class"}, "label_column 'class' is for your own data"),
    ],
)
def test_bad_data_is_refused_at_once(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(find_preset("digits"), **change)
