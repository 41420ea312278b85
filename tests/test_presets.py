"""Presets: every data set has one, and a user's own data is found from any process."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from otad_ray.data import DATA_SETS, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.models import backbone_config, build_backbone, metric_net_config
from otad_ray.presets import PRESETS, find_preset


def test_every_data_set_has_a_preset_of_its_name() -> None:
    found = {preset.name: preset.data_set for preset in PRESETS.values()}
    assert found.items() >= {name: name for name in DATA_SETS}.items()
    for preset in PRESETS.values():
        assert preset.definition.name == preset.data_set


def test_transformers_have_presets_of_the_papers_sizes() -> None:
    """Patches, width and blocks of Section V.A, and of the authors' code."""
    for name, expected in {"cifar10_vit": (64, 64 * 256, 6), "cifar10_vit_released": (64, 65 * 384, 7)}.items():
        preset = find_preset(name)
        config = backbone_config(preset.backbone, shape=preset.definition.shape, num_outputs=10)
        backbone = build_backbone(preset.backbone, shape=preset.definition.shape, num_outputs=10)
        assert (config.num_patches, backbone.dimension, len(backbone.blocks)) == expected
        assert preset.integration.num_neighbors == 10
        assert preset.integration.regularity.relax_smoothness == 1
    for preset in PRESETS.values():
        if preset.has_metric:
            assert metric_net_config(preset.metric, shape=preset.definition.shape).num_keys == 128


def test_a_part_of_the_training_rows_is_the_same_each_time() -> None:
    preset = replace(find_preset("digits"), train_rows=100)
    rows = {split: load_all(open_split(preset.definition, split)) for split in ("train", "fit", "validation", "test")}
    assert {split: len(batch.ids) for split, batch in rows.items()} == {
        "train": 100, "fit": 90, "validation": 10, "test": 360,
    }  # fmt: skip
    whole = load_all(open_split(find_preset("digits").definition, "train"))
    place = torch.searchsorted(whole.ids, rows["train"].ids)
    assert torch.equal(whole.x[place], rows["train"].x)
    more = load_all(open_split(replace(preset, train_rows=300).definition, "train"))
    assert set(rows["train"].ids.tolist()) < set(more.ids.tolist())
    for count in (0, 1438):
        with pytest.raises(InputError, match=f"train_rows must be 1 to 1437, .* got {count}"):
            open_split(replace(preset, train_rows=count).definition, "train")


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


def test_regressions_move_features_by_their_whole_displacement() -> None:
    regressions = [preset for preset in PRESETS.values() if preset.definition.task == "regression"]
    assert len(regressions) >= 2
    assert {preset.potential.share for preset in regressions} == {1.0}
