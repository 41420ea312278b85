"""A preset's CIP-net: where it lies, its labels, and how a missing one is trained."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from otad_ray.artifacts import read_manifest, to_jsonable
from otad_ray.cip import Status
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.training import Trainer, TrainingTask, check_complete, train_here
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory, label_positions, label_weights, net_inputs
from otad_ray.models import CipNet, build_cip_net, load_cip_net, save_cip_net
from otad_ray.options import TrainJobConfig
from otad_ray.presets import Preset
from otad_ray.recipes.labels import LABEL_IDENTITY, ensure_labels, open_labels
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.networks import TrainedNetwork, attention_metrics, ensure_network, train_job
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, SolvedRows, approximation_errors, gather, split_solved, train_cip_net

logger = logging.getLogger(__name__)

# Labels that are solutions; the others have none to learn.
_SOLVED = (Status.SOLVED.label, Status.RELAXED.label)
# Neighborhoods at whose tokens the Lipschitz constants of attention are looked for.
_ATTENTION_ROWS = 8
_COLUMNS = ("id", "neighbor_ids", "weights", "status")


@dataclass(frozen=True, kw_only=True)
class CipNetJobConfig(TrainJobConfig):
    """What to train, on which workers, and from which labels.

    Attributes:
        labels: a label directory to train on instead of the preset's own.
    """

    labels: str | None = None


@dataclass(frozen=True, kw_only=True)
class CipNetTask(TrainingTask):
    """A CIP-net, trained on labels; neighbors' features are gathered from the memory in the worker.

    memory, labels: directories. backbone: fingerprint of the one that the memory was built with.
    """

    preset: Preset
    memory: str
    labels: str
    backbone: str

    @property
    def config(self) -> LoopConfig:
        return self.preset.cip_net_training

    def new_network(self) -> CipNet:
        memory = NeighborMemory.load(self.memory)
        torch.manual_seed(self.preset.cip_net_training.seed)
        return build_cip_net(
            self.preset.cip_net,
            neighbors=self.preset.integration.neighbors,
            coordinates=memory.points.shape[1],
            dimension=memory.features.shape[1],
            backbone=self.backbone,
            problem=self.preset.integration.problem,
        )

    def tables(self) -> Iterator[pa.Table]:
        """Columns position (in the memory), neighbors [K] (likewise) and weights [K] of the solved labels."""
        memory = NeighborMemory.load(self.memory)
        neighbors = self.preset.integration.neighbors
        for _, table in ShardedDirectory.open(Path(self.labels), kind="labels").tables(_COLUMNS):
            solved = solved_labels(table)
            if not len(solved):
                continue
            rows, near = label_positions(memory, solved, neighbors)
            columns = {
                "position": rows.numpy(),
                "neighbors": pa.FixedSizeListArray.from_arrays(near.flatten().numpy(), neighbors),
                "weights": pa.FixedSizeListArray.from_arrays(
                    label_weights(solved, neighbors).flatten().numpy(), neighbors
                ),
            }
            yield pa.table(columns)

    def assemble(self, tables: Iterable[pa.Table]) -> SolvedRows:
        """All labels in order of position, whatever order they come in."""
        found = SolvedRows(*(torch.cat(columns) for columns in zip(*map(_solved_rows, tables), strict=True)))
        check_complete(len(found.rows), self.num_rows)
        return found.take(found.rows.argsort())

    def train(self, tables: Iterable[pa.Table], device: torch.device) -> None:
        solved = self.assemble(tables)
        memory = NeighborMemory.load(self.memory, device=device)
        train_cip_net(
            self.new_network().to(device),
            memory,
            solved,
            self.preset.integration,
            self.preset.cip_net_training,
            on_epoch=self.report,
            store=self.store,
        )


def _solved_rows(table: pa.Table) -> SolvedRows:
    """Copied, because Ray's memory is read-only."""
    near, weights = (
        torch.tensor(table[name].combine_chunks().flatten().to_numpy()).view(len(table), -1)
        for name in ("neighbors", "weights")
    )
    return SolvedRows(torch.tensor(table["position"].to_numpy()), near, weights)


def solved_labels(table: pa.Table) -> pa.Table:
    """The rows of a label table that are solutions."""
    return table.filter(pa.array(np.isin(table["status"].to_numpy(zero_copy_only=False), _SOLVED)))


def ensure_cip_net(
    workspace: Workspace, trainer: Trainer = train_here, *, labels: str | None = None, search: str = "torch"
) -> tuple[Path, CipNet]:
    """The preset's trained CIP-net and its directory; made first, with its labels, where it is missing.

    labels: a directory of labels in place of the preset's own; InputError where they were made with another backbone,
    memory, number of neighbors or regularity.
    """
    given = None if labels is None else open_labels(Path(labels).absolute())
    if given is not None:
        # Before anything is trained for them.
        _check_labels(workspace, given, to_jsonable(workspace.preset.integration))
    memory = ensure_memory(workspace, search=search)
    labeled = open_labels(ensure_labels(workspace, memory, search=search)) if given is None else given
    _check_labels(workspace, labeled, {"memory": memory.fingerprint}, _backbones(labeled, memory))
    found = ensure_network(workspace, _cip_net(workspace, memory, labeled), trainer)
    return found, load_cip_net(found)


def _check_labels(workspace: Workspace, labels: ShardedDirectory, asked: Mapping[str, Any], why: str = "") -> None:
    """InputError unless labels are complete, and made with what is asked for."""
    directory, made = labels.directory, labels.manifest["identity"]
    for name in LABEL_IDENTITY:
        if name in asked and made[name] != asked[name]:
            raise InputError(
                f"the labels in {directory} were made with {name} {made[name]}, this CIP-net is for {asked[name]}{why};"
                f" make them with: python jobs/label_qcp.py {workspace.preset.name} (and the same options)"
            )
    if not labels.manifest["complete"]:
        raise InputError(f"the labels in {directory} are not complete; run the label job that makes them again")


def _backbones(labels: ShardedDirectory, memory: NeighborMemory) -> str:
    """Of labels of another memory, whether it is another backbone's too, where that can be known."""
    described = labels.manifest.get("memory") or {}
    try:
        other = read_manifest(Path(described["directory"]), kind="memory")["backbone"]
    except (InputError, KeyError):
        return ""
    here = memory.manifest.get("backbone")
    return "" if other == here else f" (and with backbone {other[:12]}, not {str(here)[:12]})"


def _cip_net(workspace: Workspace, memory: NeighborMemory, labels: ShardedDirectory) -> TrainedNetwork:
    preset = workspace.preset
    skipped = _skipped(labels)
    task = CipNetTask(
        num_rows=labels.manifest["rows"] - sum(skipped.values()),
        preset=preset,
        memory=str(memory.directory),
        labels=str(labels.directory),
        backbone=memory.manifest["backbone"],
    )
    return TrainedNetwork(
        kind="cip_net",
        job="train_cip_net",
        identity={
            "labels": labels.manifest["identity"],
            "cip_net": to_jsonable(task.new_network().config),
            "training": to_jsonable(preset.cip_net_training),
        },
        check=partial(_check_solved, labels, task, skipped),
        task=task,
        measure=partial(_measure, task, memory),
        save=save_cip_net,
        params={"cip_net": preset.cip_net, "cip_net_training": preset.cip_net_training},
        manifest={
            "backbone": memory.manifest["backbone"],
            "memory": memory.fingerprint,
            "labels_directory": str(labels.directory),
            "skipped": skipped,
        },
    )


def _skipped(labels: ShardedDirectory) -> dict[str, int]:
    """Labels that are no solutions, by status."""
    statuses = labels.manifest["statistics"]["statuses"]
    return {status: count for status, count in statuses.items() if count and status not in _SOLVED}


def _check_solved(labels: ShardedDirectory, task: CipNetTask, skipped: dict[str, int]) -> None:
    if skipped:
        logger.warning("%s: labels without a solution are skipped: %s", labels.directory, skipped)
    # As the worker will split them.
    places = torch.arange(task.num_rows)
    split_solved(SolvedRows(places, places, places), task.preset.cip_net_training)


def _measure(task: CipNetTask, memory: NeighborMemory, net: nn.Module) -> dict[str, float]:
    """Errors on the labels that were not trained on."""
    assert isinstance(net, CipNet)
    _, held_out = split_solved(task.assemble(task.tables()), task.preset.cip_net_training)
    errors = approximation_errors(net, memory, held_out, task.preset.integration)
    logger.info("held-out error %.4f of the neighbor mean's", errors["error_to_mean"])
    neighborhood = gather(memory, held_out.take(torch.arange(min(_ATTENTION_ROWS, len(held_out.rows)))))
    attention = attention_metrics(net, *net_inputs(neighborhood, memory.point_space))
    return {f"held_out_{name}": value for name, value in errors.items()} | attention


def run_cip_net_training(config: CipNetJobConfig) -> dict[str, Any]:
    """The training job of a CIP-net; what the last line of its output says."""
    return train_job(
        config, "cip_net", lambda workspace, trainer: ensure_cip_net(workspace, trainer, labels=config.labels)[0]
    )
