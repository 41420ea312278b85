"""A preset's backbone: where it lies, and how a missing one is trained."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otad_ray.artifacts import (
    MANIFEST,
    atomic_directory,
    one_at_a_time,
    read_manifest,
    to_jsonable,
    versions,
    write_json,
)
from otad_ray.data import Split, load_all
from otad_ray.distributed.capacity import capacity_wait
from otad_ray.distributed.cluster import check_num_workers
from otad_ray.distributed.options import TrainJobConfig
from otad_ray.distributed.training import Trainer, TrainingTask, train_here, train_on_ray
from otad_ray.distributed.workspace import Workspace, data_record, track_once
from otad_ray.errors import InputError
from otad_ray.evaluation import transport_diagnostics
from otad_ray.models import Backbone, load_backbone, save_backbone
from otad_ray.tracking import RunRecord
from otad_ray.training import held_out_metric

logger = logging.getLogger(__name__)

# Rows whose neighborhoods are looked at when a backbone is diagnosed: those of the largest published sets.
_DIAGNOSED_ROWS = 100_000


def ensure_backbone(workspace: Workspace, trainer: Trainer = train_here) -> tuple[Path, Backbone]:
    """The preset's trained backbone and its directory; trained first where it is missing.

    A killed training is continued, by whichever trainer: the states in `<hash>.training` beside the directory are
    those of the loop they share.
    """
    _check_neighbors(workspace)
    directory, identity = _backbone_place(workspace)
    if not directory.is_dir():
        workspace.refuse_to_build("backbone", directory, "train_backbone")
        with one_at_a_time(directory.with_name(f".{directory.name}.lock")):
            # Another job may have trained it while this one waited.
            if not directory.is_dir():
                _train(workspace, directory, identity, trainer)
    track_once(workspace, directory, "backbone", _backbone_run)
    return directory, load_backbone(directory)


def find_backbone(workspace: Workspace) -> Backbone:
    """The preset's trained backbone; InputError where there is none yet."""
    directory, _ = _backbone_place(workspace)
    if not directory.is_dir():
        raise InputError(
            f"the backbone of preset {workspace.preset.name!r} is not in {directory}, so no memory can have been built "
            f"with it; leave out --memory, or give the options and the storage that the memory was built with"
        )
    return load_backbone(directory)


def _check_neighbors(workspace: Workspace) -> None:
    """Before a backbone is trained for it: InputError for more neighbors than there are other rows."""
    preset = workspace.preset
    rows = len(workspace.rows(preset.training.rows))
    if preset.integration.neighbors >= rows:
        raise InputError(
            f"neighbors must be at most {rows - 1}, the other training rows of {preset.data_set}, "
            f"got {preset.integration.neighbors}"
        )


def _backbone_place(workspace: Workspace) -> tuple[Path, dict[str, Any]]:
    preset = workspace.preset
    data = workspace.rows(preset.training.rows).fingerprint
    identity = {"data": data, "backbone": preset.backbone, "training": preset.training}
    return workspace.directory("backbone", identity), identity


def _train(workspace: Workspace, directory: Path, identity: dict[str, Any], trainer: Trainer) -> None:
    preset = workspace.preset
    rows = workspace.rows(preset.training.rows)
    rows.check()
    workspace.rows(_held_out(workspace)).check()
    logger.info("training %s on %s (%d rows)", preset.backbone.architecture, preset.data_set, len(rows))
    state = directory.with_name(f"{directory.name}.training")
    definition = workspace.definition
    task = TrainingTask(
        preset=preset,
        folders=workspace.folders,
        shape=definition.shape,
        num_outputs=definition.num_outputs,
        state=state,
    )
    try:
        trainer(task)
    except FloatingPointError as error:
        # Going on from its states would end the same way.
        shutil.rmtree(state, ignore_errors=True)
        raise InputError(f"training diverged: {error}") from error
    backbone, history = task.result()
    last = history[-1].values()
    metrics = {
        "loss": last.pop("loss"),
        "energy": last.pop("energy"),
        **{f"train_{name}": value for name, value in last.items()},
        **_held_out_metrics(workspace, backbone),
        **_diagnostics(workspace, backbone),
    }
    with atomic_directory(directory) as temporary:
        save_backbone(temporary, backbone)
        manifest = {
            "kind": "backbone",
            "identity": identity,
            "metrics": metrics,
            "history": [{"epoch": epoch.epoch, **epoch.values()} for epoch in history],
            "rows": len(rows),
            # What the shares of neighborhoods among the metrics are of.
            "diagnosed_at": {
                "neighbors": preset.integration.neighbors,
                "regularity": preset.integration.regularity,
            },
            "versions": versions(),
        }
        write_json(temporary / MANIFEST, manifest)
    shutil.rmtree(state, ignore_errors=True)


def _held_out(workspace: Workspace) -> Split:
    return "validation" if workspace.preset.training.rows == "fit" else "test"


def _held_out_metrics(workspace: Workspace, backbone: Backbone) -> dict[str, float]:
    """What a finished backbone does on rows it was not trained on, by the names that people see."""
    split = _held_out(workspace)
    held_out = load_all(workspace.rows(split))
    name, value = held_out_metric(backbone, held_out.x, held_out.y)
    logger.info("%s %s %.4f", split, name, value)
    return {f"{split}_{name}": value}


def _diagnostics(workspace: Workspace, backbone: Backbone) -> dict[str, float]:
    """Whether it is a transport map, by its training rows: all, or a seeded sample of as many as fit in memory."""
    preset = workspace.preset
    rows = workspace.rows(preset.training.rows)
    order = np.random.default_rng(preset.training.seed).permutation(len(rows))[:_DIAGNOSED_ROWS]
    with torch.no_grad():
        points = backbone.embed(rows.take(np.sort(order)).x)
    integration = preset.integration
    return transport_diagnostics(backbone, points, neighbors=integration.neighbors, regularity=integration.regularity)


def _backbone_run(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    preset = workspace.preset
    return RunRecord(
        experiment=preset.name,
        kind="backbone",
        result={"directory": directory},
        outcome=manifest["metrics"],
        params=to_jsonable(
            {
                "data_set": preset.data_set,
                "backbone": preset.backbone,
                "training": preset.training,
                "diagnosed_at": manifest["diagnosed_at"],
            }
        ),
        metrics=manifest["metrics"],
        # The whole history, also of epochs before a restart, in the one run that a finished backbone gets.
        series={
            f"epoch_{name}": [(epoch["epoch"], epoch[name]) for epoch in manifest["history"]]
            for name in manifest["history"][0]
            if name != "epoch"
        },
        data=data_record(workspace, preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )


def run_training(config: TrainJobConfig) -> dict[str, Any]:
    """The training job, on Ray Train; what the last line of its output says."""
    waits = capacity_wait(config.capacity_wait) > 0
    check_num_workers(config.num_workers, config.address, use_gpu=config.use_gpu, waits=waits)
    directory, _ = ensure_backbone(Workspace(config), partial(train_on_ray, config=config))
    manifest = read_manifest(directory, kind="backbone")
    return {"backbone": str(directory), "rows": manifest["rows"], **manifest["metrics"]}
