"""Measure the standard accuracy (or MSE) of net, KNN and OTAD, the relative error RE, and transport diagnostics.

python jobs/evaluate.py                       # digits
python jobs/evaluate.py mnist --regularity.smoothness 3
python jobs/evaluate.py digits_vit --otad-nn  # OTAD-T, and OTAD-T-NN beside it
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from otad_ray.artifacts import MANIFEST, to_jsonable, versions
from otad_ray.cip import RETRYABLE, check_solver
from otad_ray.data import DataFolders, Split, open_split
from otad_ray.defenses import KNN, OTAD, load_defense
from otad_ray.engine.capacity import check_num_actors
from otad_ray.engine.run import Compute, run_unfinished
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.errors import InputError
from otad_ray.evaluation import StandardMetrics, evaluate_batch, transport_diagnostics
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone
from otad_ray.options import ActorJobConfig
from otad_ray.presets import Preset
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.defenses import (
    OTAD_NN,
    check_cip_net_directory,
    open_cip_net,
    save_memory_defenses,
    save_otad_nn,
)
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace, data_record
from otad_ray.tracking import RunRecord, how_to_look, redacted

logger = logging.getLogger(__name__)

_RETRYABLE = frozenset(status.label for status in RETRYABLE)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ActorJobConfig):
    """Options of the evaluation job.

    Attributes:
        split: test, or validation for a backbone trained on the fit rows.
        otad_nn: evaluate OTAD-T-NN too, whose CIP-net is trained first where it is missing.
        cip_net_directory: a CIP-net for it in place of the preset's, such as one whose labels another metric net gave.
    """

    split: Split = "test"
    otad_nn: bool = False
    cip_net_directory: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cip_net_directory(self.cip_net_directory, asked=self.otad_nn, option="--otad-nn")


@dataclass(frozen=True)
class EvaluateTask:
    """Predictions on rows of a split; defenses are directories, the first OTAD is the one asked for."""

    preset: Preset
    split: Split
    folders: DataFolders
    knn: str
    otads: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]
    search: str

    def open(self) -> Compute:
        rows = open_split(self.preset.definition, self.split, self.folders)
        knn = cast(KNN, load_defense(self.knn, search=self.search))
        otads = {name: cast(OTAD, load_defense(directory, search=self.search)) for name, directory in self.otads}
        others = {name: load_defense(directory, search=self.search) for name, directory in self.others}
        return lambda positions: evaluate_batch(rows.take(positions), knn, otads, others)

    @property
    def labels(self) -> Mapping[str, str]:
        return {}


def run_evaluation(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate net, KNN and OTAD with both cross terms; what the last line of the job's output says."""
    preset = config.preset
    check_solver(preset.integration.solver)
    check_split(preset, config.split)
    check_num_actors(config.pool, config.address)
    workspace = Workspace(config)
    rows = workspace.rows(config.split)
    rows.check()
    if config.cip_net_directory is not None:
        open_cip_net(workspace, config.cip_net_directory)
    memory = ensure_memory(workspace, search=config.search)
    _, backbone = ensure_backbone(workspace)
    saved = save_memory_defenses(workspace, config.search)
    others = _others(workspace, config)

    identity = {
        "backbone": backbone.fingerprint(),
        "memory": memory.fingerprint,
        "data": rows.fingerprint,
        "split": config.split,
        **to_jsonable(preset.integration),
        **({"others": {name: path.name for name, path in others.items()}} if others else {}),
    }
    output = ShardedDirectory.start(
        workspace.directory("sweeps", identity),
        kind="evaluation",
        identity=identity,
        rows=len(rows),
        rows_per_shard=config.rows_per_shard,
    )
    otads = tuple((name, str(path)) for name, path in saved.items() if name != "knn")
    task = EvaluateTask(
        preset,
        config.split,
        workspace.folders,
        str(saved["knn"]),
        otads,
        tuple((name, str(path)) for name, path in others.items()),
        config.search,
    )
    summary = run_unfinished([(output, task)], config, retryable=_RETRYABLE)
    if summary.rows or not output.manifest["complete"] or output.manifest["run_id"] is None:
        _finish(workspace, output, config.split, memory, backbone, summary.seconds)
    _print_table(workspace.definition.name, output.manifest)
    logger.info("MLflow: %s", how_to_look(workspace.tracking_uri))
    return {
        "evaluation": str(output.directory),
        "rows": output.manifest["rows"],
        "seconds": output.manifest["seconds"],
        "solver": preset.integration.solver,
        **output.manifest["metrics"],
        "defenses": {name: str(path) for name, path in {**saved, **others}.items()},
        "run_id": output.manifest["run_id"],
        "tracking_uri": redacted(workspace.tracking_uri),
    }


def _others(workspace: Workspace, config: EvaluateConfig) -> dict[str, Path]:
    """Directories of what is evaluated only where it is asked for."""
    if not config.otad_nn:
        return {}
    return {OTAD_NN: save_otad_nn(workspace, config.search, cip_net=config.cip_net_directory)}


def check_split(preset: Preset, split: Split) -> None:
    """InputError for rows that are in the memory: each would be its own neighbor."""
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}; known: {', '.join(get_args(Split))}")
    if split in ("train", "fit"):
        raise InputError(f"split {split!r} is in the memory: its rows are their own neighbors; take test or validation")
    if split == "validation" and preset.training.rows == "train":
        raise InputError(
            "the backbone of training.rows = 'train' was trained on the validation rows; "
            "add --training.rows fit, or evaluate --split test"
        )


def _finish(
    workspace: Workspace,
    output: ShardedDirectory,
    split: Split,
    memory: NeighborMemory,
    backbone: Backbone,
    seconds: float,
) -> None:
    rows = workspace.rows(split)
    output.refuse_strangers()
    totals = StandardMetrics()
    for shard, table in output.tables():
        if not np.array_equal(table["id"].to_numpy(), rows.take(shard.positions).ids.numpy()):
            raise RuntimeError(
                f"{shard.path(output.directory)} does not hold the ids it should; delete it and run again"
            )
        totals.add(table)
    integration = workspace.preset.integration
    metrics = totals.metrics() | transport_diagnostics(
        backbone, memory.points, neighbors=integration.neighbors, regularity=integration.regularity
    )
    if workspace.definition.bayes_accuracy is not None:
        metrics["accuracy_bayes"] = workspace.definition.bayes_accuracy()
    output.update(
        complete=not output.unfinished(_RETRYABLE),
        metrics=metrics,
        seconds=seconds or output.manifest.get("seconds", 0.0),
        versions=versions(),
    )
    record = RunRecord(
        experiment=workspace.preset.name,
        kind="evaluation",
        name=f"evaluation {split} K={workspace.preset.integration.neighbors}",
        job="evaluate",
        result={"directory": output.directory},
        outcome=totals.metrics(),
        params={**output.manifest["identity"], "data_set": workspace.preset.data_set},
        metrics={**metrics, "seconds": output.manifest["seconds"], "rows": totals.rows},
        data=data_record(workspace, split),
        artifacts=(output.directory / MANIFEST,),
        tags={"otad.directory": str(output.directory)},
    )
    output.update(run_id=workspace.track(record))


def _print_table(name: str, manifest: dict[str, Any]) -> None:
    lines = [f"{name}, {manifest['identity']['split']}: {manifest['rows']} rows in {manifest['seconds']:.1f} s"]
    for metric, value in manifest["metrics"].items():
        is_share = metric.startswith(("accuracy_", "share_"))
        shown = f"{100 * value:8.2f} %" if is_share else f"{value:10.4g}"
        lines.append(f"  {metric.removeprefix('accuracy_'):<26}{shown}")
    print("\n".join(lines), file=sys.stderr)
