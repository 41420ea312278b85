"""From a preset to its backbone and memory: where they lie, and how a missing one is made."""

import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otad_ray.artifacts import (
    MANIFEST,
    atomic_directory,
    content_hash,
    one_at_a_time,
    read_manifest,
    storage_root,
    to_jsonable,
    versions,
    write_json,
)
from otad_ray.data import DataFolders, DataSet, Rows, Split, load_all, open_split
from otad_ray.data.rows import iterate
from otad_ray.distributed.cluster import check_num_workers
from otad_ray.distributed.options import JobConfig, TrainJobConfig
from otad_ray.distributed.training import Trainer, TrainingTask, train_here, train_on_ray
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, load_backbone, save_backbone
from otad_ray.presets import Preset
from otad_ray.tracking import DataRecord, RunRecord, default_tracking_uri, track
from otad_ray.training import held_out_metric

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1024


class Workspace:
    """A preset in a storage root: what its jobs share. build: whether a missing input may be made."""

    def __init__(self, config: JobConfig) -> None:
        self.preset = config.preset
        self.build = config.build
        self.root = storage_root(config.storage)
        self.tracking_uri = default_tracking_uri(config.tracking_uri, self.root)
        self.folders = DataFolders.from_environment(cache=self.root / "data")
        self._rows: dict[str, Rows] = {}

    @property
    def definition(self) -> DataSet:
        return self.preset.definition

    def rows(self, split: Split) -> Rows:
        """Rows of a split of the preset's data set, opened once; downloads are kept below the root."""
        if split not in self._rows:
            self._rows[split] = open_split(self.definition, split, self.folders)
        return self._rows[split]

    def directory(self, kind: str, identity: Any) -> Path:
        """`<root>/<preset>/<kind>/<hash>` for what the results depend on."""
        return self.root / self.preset.name / kind / content_hash(identity)

    def track(self, record: RunRecord) -> str | None:
        """Log a finished job."""
        return track(record, tracking_uri=self.tracking_uri, root=self.root)

    def refuse_to_build(self, what: str, directory: Path, job: str) -> None:
        """InputError with the command that makes a missing input, unless it may be made."""
        if not self.build:
            raise InputError(
                f"no {what} for preset {self.preset.name!r} at {directory}; make it with: "
                f"python jobs/{job}.py {self.preset.name} (and the same options), or leave out --no-build"
            )


def data_record(workspace: Workspace, split: Split) -> DataRecord:
    """A split of the preset's data set as an input of a tracked run."""
    rows = workspace.rows(split)
    name = f"{workspace.preset.data_set}/{split}"
    return DataRecord(name=name, digest=rows.fingerprint[:12], origin=rows.origin, rows=len(rows))


def ensure_backbone(workspace: Workspace, trainer: Trainer = train_here) -> tuple[Path, Backbone]:
    """The preset's trained backbone and its directory; trained first where it is missing.

    A killed training is continued, by whichever trainer: the states in `<hash>.training` beside the directory are
    those of the loop they share.
    """
    directory, identity = _backbone_place(workspace)
    if not directory.is_dir():
        workspace.refuse_to_build("backbone", directory, "train_backbone")
        with one_at_a_time(directory.with_name(f".{directory.name}.lock")):
            # Another job may have trained it while this one waited.
            if not directory.is_dir():
                _train(workspace, directory, identity, trainer)
    _track_once(workspace, directory, "backbone", _backbone_run)
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


def _backbone_place(workspace: Workspace) -> tuple[Path, dict[str, Any]]:
    preset = workspace.preset
    data = workspace.rows(preset.training.rows).fingerprint
    identity = {"data": data, "backbone": preset.backbone, "training": preset.training}
    return workspace.directory("backbone", identity), identity


def _train(workspace: Workspace, directory: Path, identity: dict[str, Any], trainer: Trainer) -> None:
    preset = workspace.preset
    rows = workspace.rows(preset.training.rows)
    rows.check()
    logger.info("training %s on %s (%d rows)", preset.backbone.architecture, preset.data_set, len(rows))
    state = directory.with_name(f"{directory.name}.training")
    task = TrainingTask(preset=preset, folders=workspace.folders, state=state)
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
    }
    with atomic_directory(directory) as temporary:
        save_backbone(temporary, backbone)
        manifest = {
            "kind": "backbone",
            "identity": identity,
            "metrics": metrics,
            "history": [{"epoch": epoch.epoch, **epoch.values()} for epoch in history],
            "rows": len(rows),
            "versions": versions(),
        }
        write_json(temporary / MANIFEST, manifest)
    shutil.rmtree(state, ignore_errors=True)


def _held_out_metrics(workspace: Workspace, backbone: Backbone) -> dict[str, float]:
    """What a finished backbone does on rows it was not trained on, by the names that people see."""
    split: Split = "validation" if workspace.preset.training.rows == "fit" else "test"
    held_out = load_all(workspace.rows(split))
    name, value = held_out_metric(backbone, held_out.x, held_out.y)
    logger.info("%s %s %.4f", split, name, value)
    return {f"{split}_{name}": value}


def _backbone_run(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    preset = workspace.preset
    return RunRecord(
        experiment=preset.name,
        kind="backbone",
        params=to_jsonable({"data_set": preset.data_set, "backbone": preset.backbone, "training": preset.training}),
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


def _track_once(
    workspace: Workspace,
    directory: Path,
    kind: str,
    describe: Callable[[Workspace, Path, dict[str, Any]], RunRecord],
) -> None:
    """Log a finished artifact unless that was done: also one that a dead server did not take at the time."""
    manifest = read_manifest(directory, kind=kind)
    if manifest.get("run_id") is None:
        run_id = workspace.track(describe(workspace, directory, manifest))
        if run_id is not None:
            write_json(directory / MANIFEST, {**manifest, "run_id": run_id})


def ensure_memory(workspace: Workspace, *, search: str = "torch") -> NeighborMemory:
    """The memory of the backbone's own training rows; built first where it is missing."""
    rows = workspace.rows(workspace.preset.training.rows)
    _check_neighbors(workspace.preset, len(rows))
    backbone_directory, backbone = ensure_backbone(workspace)
    identity = {"backbone": backbone.fingerprint(), "data": rows.fingerprint}
    directory = workspace.directory("memory", identity)
    if not directory.is_dir():
        workspace.refuse_to_build("memory", directory, "build_memory")
        _build_memory(workspace, rows, backbone_directory, backbone, directory)
    _track_once(workspace, directory, "memory", _memory_run)
    return NeighborMemory.load(directory, search=search)


def _check_neighbors(preset: Preset, rows: int) -> None:
    """Before a backbone is trained for it: InputError for more neighbors than there are other rows."""
    neighbors = preset.integration.neighbors
    if neighbors >= rows:
        raise InputError(
            f"neighbors must be at most {rows - 1}, the other training rows of {preset.data_set}, got {neighbors}"
        )


def _build_memory(
    workspace: Workspace, rows: Rows, backbone_directory: Path, backbone: Backbone, directory: Path
) -> None:
    rows.check()
    logger.info("building the memory of %d rows in %s", len(rows), directory)
    # Consumed in lockstep, so each branch holds at most one batch.
    points, features, labels, ids = tee(_embedded(rows, backbone), 4)
    NeighborMemory.build(
        directory,
        None,
        (batch[0] for batch in points),
        (batch[1] for batch in features),
        (batch[2] for batch in labels),
        (batch[3] for batch in ids),
        provenance={
            "backbone": backbone.fingerprint(),
            "backbone_directory": backbone_directory.name,
            "data_set": workspace.preset.data_set,
            "split": workspace.preset.training.rows,
            "data": rows.fingerprint,
        },
    )


def _memory_run(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    rows, dimension = manifest["shapes"]["points"]
    return RunRecord(
        experiment=workspace.preset.name,
        kind="memory",
        params={"data_set": workspace.preset.data_set, "backbone": manifest["backbone_directory"]},
        metrics={"rows": rows, "dimension": dimension},
        data=data_record(workspace, workspace.preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )


@torch.no_grad()
def _embedded(rows: Rows, backbone: Backbone) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    for batch in iterate(rows, _BATCH_ROWS):
        points = backbone.embed(batch.x)
        yield points, backbone.features(points), batch.y, batch.ids


def run_training(config: TrainJobConfig) -> dict[str, Any]:
    """The training job, on Ray Train; what the last line of its output says."""
    check_num_workers(config.num_workers, config.address)
    directory, _ = ensure_backbone(Workspace(config), partial(train_on_ray, config=config))
    manifest = read_manifest(directory, kind="backbone")
    return {"backbone": str(directory), "rows": manifest["rows"], **manifest["metrics"]}


def run_memory_build(config: JobConfig) -> dict[str, Any]:
    """The memory job; what the last line of its output says."""
    memory = ensure_memory(Workspace(config))
    return {"memory": str(memory.directory), "rows": len(memory), "dimension": memory.points.shape[1]}
