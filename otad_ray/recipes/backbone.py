"""A preset's backbone: where it lies, what it depends on, and how a missing one is trained."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from otad_ray.artifacts import to_jsonable
from otad_ray.certification import measure_attention
from otad_ray.data import Split, load_all
from otad_ray.engine.training import Trainer, train_here
from otad_ray.errors import InputError
from otad_ray.evaluation import transport_diagnostics
from otad_ray.machine import format_bytes, require_memory
from otad_ray.models import (
    Backbone,
    BackboneConfig,
    backbone_config,
    build_backbone,
    count_backbone_bytes,
    load_backbone,
    save_backbone,
)
from otad_ray.recipes.networks import NetworkRecipe, Trained, ensure_network, find_network
from otad_ray.recipes.sample_task import SampleTask
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, held_out_metric, train_backbone

logger = logging.getLogger(__name__)

# Rows whose neighborhoods are looked at when a backbone is diagnosed: those of the largest published sets.
_DIAGNOSED_ROWS = 100_000
_EMBEDDED_ROWS = 4096
# Tensors as large as the weights that an optimizer keeps.
_MOMENTS = {"sgd": 1, "adamw": 2}
_SMALL_HIDDEN = 512
# Rows at whose tokens the Lipschitz constants of attention are measured.
_ATTENTION_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class BackboneTask(SampleTask):
    """The training of a preset's backbone on its rows."""

    @property
    def config(self) -> LoopConfig:
        return self.preset.training

    def new_network(self) -> Backbone:
        torch.manual_seed(self.preset.training.seed)
        return build_backbone(self.preset.backbone, shape=self.shape, num_outputs=self.num_outputs)

    def train(self, tables: Iterable[pa.Table], device: torch.device) -> None:
        inputs, targets = self.assemble(tables)
        backbone = self.new_network().to(device)
        train_backbone(backbone, inputs, targets, self.preset.training, on_epoch=self.report, store=self.store)


class BackboneRecipe(NetworkRecipe[Backbone]):
    """A preset's backbone."""

    kind = "backbone"
    title = "backbone"
    job = "train_backbone"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        preset = self.workspace.preset
        return {
            "data": self.workspace.rows(preset.training.rows).fingerprint,
            "architecture": preset.backbone.architecture,
            "backbone": to_jsonable(_resolve_options(self.workspace)),
            "training": to_jsonable(preset.training),
        }

    @property
    def variant(self) -> str:
        return self.workspace.preset.backbone.architecture

    @property
    def task(self) -> BackboneTask:
        return BackboneTask.of(self.workspace)

    def check(self) -> None:
        check_memory(self.workspace)
        check_rows(self.workspace)

    def measure(self, network: Backbone) -> Mapping[str, float]:
        """Measure a backbone on rows it was not trained on, and whether it is an optimal transport map."""
        split = held_out_split(self.workspace)
        held_out = load_all(self.workspace.rows(split))
        name, value = held_out_metric(network, held_out.x, held_out.y)
        logger.info("%s %s %.4f", split, name, value)
        attention = measure_attention(network, held_out.x[:_ATTENTION_ROWS])
        return {f"{split}_{name}": value, **self._diagnose(network), **attention}

    def _diagnose(self, backbone: Backbone) -> dict[str, float]:
        """Measure the transport by all training rows, or by a seeded sample of as many as fit in memory."""
        preset = self.workspace.preset
        rows = self.workspace.rows(preset.training.rows)
        order = np.sort(np.random.default_rng(preset.training.seed).permutation(len(rows))[:_DIAGNOSED_ROWS])
        blocks = np.array_split(order, -(-len(order) // _EMBEDDED_ROWS))
        with torch.no_grad():
            coordinates = torch.cat([backbone.coordinates(rows.take(block).x) for block in blocks])
        integration = preset.integration
        return transport_diagnostics(
            backbone, coordinates, num_neighbors=integration.num_neighbors, regularity=integration.regularity
        )

    def save(self, directory: Path, network: Backbone) -> None:
        save_backbone(directory, network)

    def load(self, directory: Path) -> Backbone:
        return load_backbone(directory)

    @property
    def params(self) -> Mapping[str, Any]:
        return {"backbone": self.workspace.preset.backbone, "training": self.workspace.preset.training}

    @property
    def manifest_fields(self) -> Mapping[str, Any]:
        integration = self.workspace.preset.integration
        # The shares of neighborhoods among the metrics are of these.
        diagnosed_at = {"neighbors": integration.num_neighbors, "regularity": integration.regularity}
        description = self.workspace.description
        repeats = {"repeated_rows": description.repeated_rows, "test_rows_in_train": description.test_rows_in_train}
        return to_jsonable({"diagnosed_at": diagnosed_at, **repeats})


def ensure_backbone(workspace: Workspace, trainer: Trainer = train_here) -> Trained[Backbone]:
    """Return the preset's trained backbone and its directory; train it first if it is missing."""
    _resolve_options(workspace)
    check_num_neighbors(workspace)
    return ensure_network(BackboneRecipe(workspace), trainer)


def find_backbone(workspace: Workspace) -> Backbone:
    """Return the preset's trained backbone; InputError if there is none yet."""
    return find_network(BackboneRecipe(workspace))


def check_num_neighbors(workspace: Workspace) -> None:
    """Refuse more neighbors than there are other training rows, before a backbone is trained for them."""
    preset = workspace.preset
    rows = len(workspace.rows(preset.training.rows))
    if preset.integration.num_neighbors >= rows:
        raise InputError(
            f"neighbors must be at most {rows - 1}, the other training rows of {preset.data_set}, "
            f"got {preset.integration.num_neighbors}"
        )


def _resolve_options(workspace: Workspace) -> Any:
    """Return the backbone's own configuration; refuse, before any row is read, samples that it does not fit."""
    definition = workspace.definition
    return backbone_config(workspace.preset.backbone, shape=definition.shape, num_outputs=definition.num_outputs)


def check_memory(workspace: Workspace) -> None:
    """Refuse a training that does not fit into memory, before any of it is allocated.

    It holds the weights, as many gradients, the optimizer's moments, and all training samples.
    """
    preset, definition = workspace.preset, workspace.definition

    def count_bytes(options: BackboneConfig) -> int:
        return count_backbone_bytes(options, shape=definition.shape, num_outputs=definition.num_outputs)

    copies = 2 + _MOMENTS[preset.training.optimizer]
    weights, samples = count_bytes(preset.backbone), workspace.description.sample_bytes
    advice = "set --backbone.hidden, --backbone.num-blocks or --train-rows to less"
    if copies * weights > samples and preset.backbone.hidden is None:
        smaller = copies * count_bytes(replace(preset.backbone, hidden=_SMALL_HIDDEN)) + samples
        advice = f"set --backbone.hidden: with {_SMALL_HIDDEN} it is {format_bytes(smaller)}"
    require_memory(
        copies * weights + samples,
        what=f"weights of {format_bytes(weights)}, their gradients and moments, and samples of "
        f"{format_bytes(samples)} ({definition.dimension} values each)",
        advice=advice,
    )


def check_rows(workspace: Workspace) -> None:
    """Refuse rows that cannot be trained on or held out."""
    workspace.rows(workspace.preset.training.rows).check()
    workspace.rows(held_out_split(workspace)).check()


def held_out_split(workspace: Workspace) -> Split:
    """Return the split that a finished network is measured on."""
    return "validation" if workspace.preset.training.rows == "fit" else "test"
