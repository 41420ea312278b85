"""A preset's CIP-net: where it lies, its labels, and how a missing one is trained."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from otad_ray.artifacts import read_manifest, to_jsonable
from otad_ray.certification import measure_attention
from otad_ray.cip import Status
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.training import Trainer, TrainingTask, check_complete, train_here
from otad_ray.errors import InputError
from otad_ray.locations import resolve_path
from otad_ray.machine import job_command
from otad_ray.memory import NeighborMemory, label_positions, label_weights, make_list_column, net_inputs
from otad_ray.models import CipNet, build_cip_net, load_cip_net, save_cip_net
from otad_ray.presets import Preset
from otad_ray.recipes.approximate_search import SEARCH
from otad_ray.recipes.labels import LABEL_IDENTITY, ensure_labels, open_labels
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.networks import NetworkRecipe, Trained, ensure_network
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, SolvedRows, approximation_errors, gather, split_solved, train_cip_net

logger = logging.getLogger(__name__)

# Labels that are solutions; the others have none to learn.
_SOLVED = (Status.SOLVED.label, Status.RELAXED.label)
# Neighborhoods at whose tokens the Lipschitz constants of attention are looked for.
_ATTENTION_ROWS = 8
_COLUMNS = ("id", "neighbor_ids", "weights", "status")


@dataclass(frozen=True, kw_only=True)
class CipNetTask(TrainingTask):
    """The training of a CIP-net on labels; the worker gathers neighbors' features from the memory.

    Attributes:
        preset: the settings.
        memory: directory of the memory.
        labels: directory of the labels.
        backbone: fingerprint of the backbone that the memory was built with.
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
            num_neighbors=self.preset.integration.num_neighbors,
            coordinates=memory.points.shape[1],
            dimension=memory.features.shape[1],
            backbone=self.backbone,
            problem=self.preset.integration.problem,
        )

    def tables(self) -> Iterator[pa.Table]:
        """Yield the solved labels with columns position (in the memory), neighbors [K] (likewise) and weights [K]."""
        memory = NeighborMemory.load(self.memory)
        neighbors = self.preset.integration.num_neighbors
        for _, table in open_labels(Path(self.labels)).tables(_COLUMNS):
            solved = select_solved(table)
            if not len(solved):
                continue
            rows, near = label_positions(memory, solved, neighbors)
            columns = {
                "position": rows.numpy(),
                "neighbors": make_list_column(near),
                "weights": make_list_column(label_weights(solved, neighbors)),
            }
            yield pa.table(columns)

    def assemble(self, tables: Iterable[pa.Table]) -> SolvedRows:
        """Return all labels in order of position, in whatever order the tables come."""
        found = SolvedRows(*(torch.cat(columns) for columns in zip(*map(_read_solved_rows, tables), strict=True)))
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


def _read_solved_rows(table: pa.Table) -> SolvedRows:
    """Return the labels of a table, copied, because Ray's memory is read-only."""
    near, weights = (
        torch.tensor(table[name].combine_chunks().flatten().to_numpy()).view(len(table), -1)
        for name in ("neighbors", "weights")
    )
    return SolvedRows(torch.tensor(table["position"].to_numpy()), near, weights)


def select_solved(table: pa.Table) -> pa.Table:
    """Return the rows of a label table that are solutions."""
    return table.filter(pa.array(np.isin(table["status"].to_numpy(zero_copy_only=False), _SOLVED)))


class CipNetRecipe(NetworkRecipe[CipNet]):
    """A preset's CIP-net, for labels of its memory."""

    kind = "cip_net"
    title = "CIP-net"
    job = "train_cip_net"

    def __init__(self, workspace: Workspace, memory: NeighborMemory, labels: ShardedDirectory) -> None:
        super().__init__(workspace)
        self._memory = memory
        self._labels = labels
        statuses: Mapping[str, int] = labels.manifest["statistics"]["statuses"]
        self._skipped = {status: count for status, count in statuses.items() if count and status not in _SOLVED}

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        return {
            "labels": self._labels.manifest["identity"],
            "cip_net": to_jsonable(self.task.new_network().config),
            "training": to_jsonable(self.workspace.preset.cip_net_training),
        }

    @property
    def variant(self) -> str:
        return self.workspace.preset.cip_net.head

    @cached_property
    def task(self) -> CipNetTask:
        return CipNetTask(
            num_rows=self._labels.manifest["rows"] - sum(self._skipped.values()),
            preset=self.workspace.preset,
            memory=str(self._memory.directory),
            labels=str(self._labels.directory),
            backbone=self._memory.manifest["backbone"],
        )

    def check(self) -> None:
        """Refuse labels that cannot be split as the worker will split them; warn of those that are approximate."""
        if SEARCH in self._labels.manifest:
            logger.warning("%s: neighbors are those of an approximate search", self._labels.directory)
        if self._skipped:
            logger.warning("%s: labels without a solution are skipped: %s", self._labels.directory, self._skipped)
        places = torch.arange(self.task.num_rows)
        split_solved(SolvedRows(places, places, places), self.workspace.preset.cip_net_training)

    def measure(self, network: CipNet) -> Mapping[str, float]:
        """Measure the errors on the labels that were not trained on."""
        preset, memory = self.workspace.preset, self._memory
        _, held_out = split_solved(self.task.assemble(self.task.tables()), preset.cip_net_training)
        errors = approximation_errors(network, memory, held_out, preset.integration)
        logger.info("held-out error %.4f of the neighbor mean's", errors["error_to_mean"])
        neighborhood = gather(memory, held_out.take(torch.arange(min(_ATTENTION_ROWS, len(held_out.rows)))))
        attention = measure_attention(network, *net_inputs(neighborhood, memory.point_space))
        return {f"held_out_{name}": value for name, value in errors.items()} | attention

    def save(self, directory: Path, network: CipNet) -> None:
        save_cip_net(directory, network)

    def load(self, directory: Path) -> CipNet:
        return load_cip_net(directory)

    @property
    def params(self) -> Mapping[str, Any]:
        return {"cip_net": self.workspace.preset.cip_net, "cip_net_training": self.workspace.preset.cip_net_training}

    @property
    def manifest_fields(self) -> Mapping[str, Any]:
        return {
            "backbone": self._memory.manifest["backbone"],
            "memory": self._memory.fingerprint,
            "labels_directory": str(self._labels.directory),
            "skipped": self._skipped,
            **{name: self._labels.manifest[name] for name in (SEARCH,) if name in self._labels.manifest},
        }


def ensure_cip_net(
    workspace: Workspace, trainer: Trainer = train_here, *, labels: str | None = None
) -> Trained[CipNet]:
    """Return the preset's trained CIP-net and its directory; make it first, with its labels, if it is missing.

    Args:
        workspace: the preset.
        trainer: trains a missing one.
        labels: a directory of labels in place of the preset's own.

    Raises:
        InputError: for labels that were made with another memory, number of neighbors or regularity.
    """
    given = None if labels is None else open_labels(resolve_path(labels, "--labels"))
    if given is not None:
        # Before anything is trained for them.
        _check_labels(workspace, given, to_jsonable(workspace.preset.integration))
    memory = ensure_memory(workspace)
    labeled = ensure_labels(workspace) if given is None else given
    _check_labels(workspace, labeled, {"memory": memory.fingerprint}, _compare_backbones(labeled, memory))
    return ensure_network(CipNetRecipe(workspace, memory, labeled), trainer)


def _check_labels(workspace: Workspace, labels: ShardedDirectory, asked: Mapping[str, Any], why: str = "") -> None:
    """Refuse labels that are not complete, or were made with something else than what is asked for."""
    directory, made = labels.directory, labels.manifest["identity"]
    for name in LABEL_IDENTITY:
        if name in asked and made[name] != asked[name]:
            raise InputError(
                f"the labels in {directory} were made with {name} {made[name]}, this CIP-net is for {asked[name]}{why};"
                f" make them with: {job_command('label_qcp')} {workspace.preset.name} (and the same options)"
            )
    if not labels.manifest["complete"]:
        raise InputError(f"the labels in {directory} are not complete; run the label job that makes them again")


def _compare_backbones(labels: ShardedDirectory, memory: NeighborMemory) -> str:
    """Return in words whether labels of another memory are another backbone's too, if that can be known."""
    described = labels.manifest.get("memory") or {}
    try:
        other = read_manifest(Path(described["directory"]), kind="memory")["backbone"]
    except (InputError, KeyError):
        return ""
    here = memory.manifest.get("backbone")
    return "" if other == here else f" (and with backbone {other[:12]}, not {str(here)[:12]})"
