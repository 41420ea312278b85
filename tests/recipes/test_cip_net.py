"""CIP-nets: trained on labels that fit, skipped rows, and an interrupted training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.digits_jobs import ROWS
from helpers.transformer_jobs import cip_net_metrics, only_cip_net, preset
from otad_ray.engine.shards import write_shard
from otad_ray.engine.training import train_here
from otad_ray.errors import InputError
from otad_ray.models import MetricNetConfig
from otad_ray.options import JobConfig
from otad_ray.recipes.cip_net import CipNetTask
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace


def test_the_papers_head_is_trained_beside_ours(evaluated: dict[str, Any], storage: Path) -> None:
    feature = preset(cip_net=replace(preset().cip_net, head="feature"))
    _, theirs = cip_net_metrics(feature, storage)
    ours = only_cip_net(storage, "simplex")
    assert ours["metrics"]["held_out_error_to_mean"] < theirs["metrics"]["held_out_error_to_mean"]
    # The same labels, held out alike.
    assert Path(ours["labels_directory"]).name == Path(theirs["labels_directory"]).name


def test_labels_of_something_else_are_refused(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """Other memory and backbone, other K, other regularity; and what is no directory of labels."""
    labels = only_cip_net(storage, "simplex")["labels_directory"]
    cases = [
        (
            preset(integration=replace(preset().integration, num_neighbors=4)),
            labels,
            "were made with neighbors 5, .* 4",
        ),
        (
            preset(integration=replace(preset().integration, cross_term="released")),
            labels,
            "were made with cross_term theory",
        ),
        (
            preset(training=replace(preset().training, epochs=1)),
            labels,
            r"were made with memory \w+, this CIP-net is for \w+ \(and with backbone \w+, not \w+\)",
        ),
        (
            preset(metric=MetricNetConfig()),
            labels,
            r"were made with memory \w+, this CIP-net is for \w+; make them with",
        ),
        (preset(), str(tmp_path), "is no labels directory"),
        (preset(), str(tmp_path / "nowhere"), "is no labels directory"),
    ]
    for asked, directory, message in cases:
        with pytest.raises(InputError, match=message):
            cip_net_metrics(asked, storage, labels=directory)


def test_failed_label_rows_are_skipped_and_counted(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """Labels in which a solver failed on some rows."""
    directory = tmp_path / "labels"
    shutil.copytree(only_cip_net(storage, "simplex")["labels_directory"], directory)
    path = sorted(directory.glob("shard-*"))[0]
    table = pq.read_table(path, partitioning=None)
    statuses = table["status"].to_pylist()
    statuses[3] = "failed"
    statuses[10:12] = ["infeasible"] * 2
    place = table.column_names.index("status")
    write_shard(path, table.set_column(place, "status", [statuses]))
    manifest = json.loads((directory / "manifest.json").read_text())
    counts = manifest["statistics"]["statuses"]
    for status, count in (("solved", -3), ("failed", 1), ("infeasible", 2)):
        counts[status] = counts.get(status, 0) + count
    (directory / "manifest.json").write_text(json.dumps(manifest))
    # Another seed, since the labels' identity is the same.
    asked = preset(cip_net_training=replace(preset().cip_net_training, epochs=1, seed=3))
    _, told = cip_net_metrics(asked, storage, labels=str(directory))
    assert told["rows"] == ROWS - 3
    assert told["skipped"] == {"failed": 1, "infeasible": 2}


def test_an_interrupted_training_of_a_cip_net_goes_on(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """What a killed job left is what the next one goes on from."""
    manifest = only_cip_net(storage, "simplex")
    memory = ensure_memory(Workspace(JobConfig(preset=preset(), storage=str(storage), build=False)))
    task = CipNetTask(
        num_rows=ROWS,
        preset=preset(),
        memory=str(memory.directory),
        labels=manifest["labels_directory"],
        backbone=manifest["backbone"],
        state=tmp_path / "state",
    )

    class KilledError(Exception):
        pass

    class Dying(CipNetTask):
        def report(self, metrics: Any) -> None:
            if metrics.epoch == 3:
                raise KilledError

    with pytest.raises(KilledError):
        train_here(Dying(**vars(task)))
    assert task.store.latest().epoch == 3
    train_here(task)
    _, history = task.result()
    assert [epoch.values() for epoch in history] == [
        {name: value for name, value in epoch.items() if name != "epoch"} for epoch in manifest["history"]
    ]
