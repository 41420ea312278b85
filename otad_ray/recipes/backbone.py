"""A preset's backbone: where it lies, and how a missing one is trained."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from otad_ray.artifacts import to_jsonable
from otad_ray.data import Split, load_all
from otad_ray.engine.training import SampleTask, Trainer, train_here
from otad_ray.errors import InputError
from otad_ray.evaluation import transport_diagnostics
from otad_ray.models import Backbone, backbone_config, build_backbone, load_backbone, save_backbone
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.networks import (
    TrainedNetwork,
    attention_metrics,
    ensure_network,
    find_network,
    train_job,
)
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, held_out_metric, train_backbone

logger = logging.getLogger(__name__)

# Rows whose neighborhoods are looked at when a backbone is diagnosed: those of the largest published sets.
_DIAGNOSED_ROWS = 100_000
_EMBEDDED_ROWS = 4096
# Rows at whose tokens the Lipschitz constants of attention are looked for.
_ATTENTION_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class BackboneTask(SampleTask):
    """A preset's backbone, trained on its rows."""

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


def ensure_backbone(workspace: Workspace, trainer: Trainer = train_here) -> tuple[Path, Backbone]:
    """The preset's trained backbone and its directory; trained first where it is missing."""
    _resolved(workspace)
    check_neighbors(workspace)
    directory = ensure_network(workspace, _backbone(workspace), trainer)
    return directory, load_backbone(directory)


def find_backbone(workspace: Workspace) -> Backbone:
    """The preset's trained backbone; InputError where there is none yet."""
    return load_backbone(find_network(workspace, _backbone(workspace)))


def check_neighbors(workspace: Workspace) -> None:
    """Before a backbone is trained for it: InputError for more neighbors than there are other rows."""
    preset = workspace.preset
    rows = len(workspace.rows(preset.training.rows))
    if preset.integration.neighbors >= rows:
        raise InputError(
            f"neighbors must be at most {rows - 1}, the other training rows of {preset.data_set}, "
            f"got {preset.integration.neighbors}"
        )


def check_rows(workspace: Workspace) -> None:
    """InputError for rows that cannot be trained on or held out."""
    workspace.rows(workspace.preset.training.rows).check()
    workspace.rows(held_out_split(workspace)).check()


def _backbone(workspace: Workspace) -> TrainedNetwork:
    preset = workspace.preset
    rows = workspace.rows(preset.training.rows)
    # What the shares of neighborhoods among the metrics are of.
    diagnosed_at = {"neighbors": preset.integration.neighbors, "regularity": preset.integration.regularity}
    return TrainedNetwork(
        kind="backbone",
        job="train_backbone",
        identity={
            "data": rows.fingerprint,
            "architecture": preset.backbone.architecture,
            "backbone": to_jsonable(_resolved(workspace)),
            "training": to_jsonable(preset.training),
        },
        check=partial(check_rows, workspace),
        task=BackboneTask.of(workspace),
        measure=partial(_measure, workspace),
        save=save_backbone,
        params={"backbone": preset.backbone, "training": preset.training},
        manifest=to_jsonable({"diagnosed_at": diagnosed_at}),
    )


def _resolved(workspace: Workspace) -> Any:
    """The backbone's own configuration; InputError, before any row is read, for samples that it does not fit."""
    definition = workspace.definition
    return backbone_config(workspace.preset.backbone, shape=definition.shape, num_outputs=definition.num_outputs)


def held_out_split(workspace: Workspace) -> Split:
    """The rows that a finished network is measured on."""
    return "validation" if workspace.preset.training.rows == "fit" else "test"


def _measure(workspace: Workspace, backbone: nn.Module) -> dict[str, float]:
    """What a finished backbone does on rows it was not trained on, and whether it is a transport map."""
    assert isinstance(backbone, Backbone)
    split = held_out_split(workspace)
    held_out = load_all(workspace.rows(split))
    name, value = held_out_metric(backbone, held_out.x, held_out.y)
    logger.info("%s %s %.4f", split, name, value)
    attention = attention_metrics(backbone, held_out.x[:_ATTENTION_ROWS])
    return {f"{split}_{name}": value, **_diagnostics(workspace, backbone), **attention}


def _diagnostics(workspace: Workspace, backbone: Backbone) -> dict[str, float]:
    """By its training rows: all, or a seeded sample of as many as fit in memory."""
    preset = workspace.preset
    rows = workspace.rows(preset.training.rows)
    order = np.sort(np.random.default_rng(preset.training.seed).permutation(len(rows))[:_DIAGNOSED_ROWS])
    blocks = np.array_split(order, -(-len(order) // _EMBEDDED_ROWS))
    with torch.no_grad():
        coordinates = torch.cat([backbone.coordinates(rows.take(block).x) for block in blocks])
    integration = preset.integration
    return transport_diagnostics(
        backbone, coordinates, neighbors=integration.neighbors, regularity=integration.regularity
    )


def run_training(config: TrainJobConfig) -> dict[str, Any]:
    """The training job of a backbone; what the last line of its output says."""
    return train_job(config, "backbone", lambda workspace, trainer: ensure_backbone(workspace, trainer)[0])
