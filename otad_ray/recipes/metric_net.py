"""A preset's metric net: where it lies, what it depends on, and how a missing one is trained."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from otad_ray.artifacts import file_sha256, to_jsonable
from otad_ray.data import Batch, Rows
from otad_ray.engine.training import Trainer, train_here
from otad_ray.errors import InputError
from otad_ray.evaluation import neighbor_accuracy
from otad_ray.models import (
    MetricNet,
    MetricNetConfig,
    build_metric_net,
    load_metric_net,
    metric_net_config,
    save_metric_net,
)
from otad_ray.recipes.backbone import check_num_neighbors, check_rows, held_out_split
from otad_ray.recipes.networks import NetworkRecipe, Trained, ensure_network, find_network
from otad_ray.recipes.sample_task import SampleTask
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, train_metric_net

# Training rows that a finished net finds neighbors among, and rows that it finds them for.
_VOTERS, _VOTES = 10_000, 1000
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class MetricTask(SampleTask):
    """The training of a preset's metric net, on the rows of its backbone."""

    @property
    def config(self) -> LoopConfig:
        return self.preset.metric_training

    def new_network(self) -> MetricNet:
        torch.manual_seed(self.preset.metric_training.seed)
        return build_metric_net(self.preset.metric, shape=self.shape)

    def train(self, tables: Iterable[pa.Table], device: torch.device) -> None:
        inputs, labels = self.assemble(tables)
        net = self.new_network().to(device)
        train_metric_net(net, inputs, labels, self.preset.metric_training, on_epoch=self.report, store=self.store)


class MetricNetRecipe(NetworkRecipe[MetricNet]):
    """A preset's metric net."""

    kind = "metric"
    title = "metric net"
    job = "train_metric"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        preset, definition = self.workspace.preset, self.workspace.definition
        weights = preset.metric.weights
        return {
            "data": self.workspace.rows(preset.training.rows).fingerprint,
            "architecture": preset.metric.architecture,
            "metric": to_jsonable(metric_net_config(preset.metric, shape=definition.shape)),
            "weights": None if weights is None else file_sha256(Path(weights)),
            "training": to_jsonable(preset.metric_training),
        }

    @property
    def variant(self) -> str:
        return self.workspace.preset.metric.architecture

    @property
    def task(self) -> MetricTask:
        return MetricTask.of(self.workspace)

    def check(self) -> None:
        check_rows(self.workspace)

    def measure(self, network: MetricNet) -> Mapping[str, float]:
        """Measure whether neighbors are of one class, by the accuracy of their vote on held-out rows."""
        preset, split = self.workspace.preset, held_out_split(self.workspace)
        known = _take_sample(self.workspace.rows(preset.training.rows), _VOTERS)
        asked = _take_sample(self.workspace.rows(split), _VOTES)
        accuracies = neighbor_accuracy(network, known, asked, num_neighbors=preset.integration.num_neighbors)
        metrics = {f"{split}_{name}": value for name, value in accuracies.items()}
        bound = network.lipschitz_bound()
        return metrics if bound is None else {**metrics, "lipschitz_bound": bound}

    def save(self, directory: Path, network: MetricNet) -> None:
        save_metric_net(directory, network)

    def load(self, directory: Path) -> MetricNet:
        return load_metric_net(directory)

    @property
    def params(self) -> Mapping[str, Any]:
        return {"metric": self.workspace.preset.metric, "metric_training": self.workspace.preset.metric_training}


def ensure_metric(workspace: Workspace, trainer: Trainer = train_here) -> Trained[MetricNet] | None:
    """Return the preset's trained metric net and its directory; train it first if it is missing.

    Returns:
        The net, or None for a preset without one.
    """
    if not workspace.preset.has_metric:
        return None
    check_metric_options(workspace)
    check_num_neighbors(workspace)
    return ensure_network(MetricNetRecipe(workspace), trainer)


def find_metric(workspace: Workspace) -> MetricNet | None:
    """Return the preset's trained metric net, None for a preset without one; InputError if there is none yet."""
    return find_network(MetricNetRecipe(workspace)) if workspace.preset.has_metric else None


def check_metric_options(workspace: Workspace) -> None:
    """Refuse, before any work, a metric net that does not fit the preset's samples."""
    preset, definition = workspace.preset, workspace.definition
    if not preset.has_metric:
        return
    if definition.task != "classification":
        raise InputError(
            f"a metric net is trained on classes, {definition.name} is a regression; leave out --metric.architecture"
        )
    metric_net_config(preset.metric, shape=definition.shape)
    if preset.metric.needs_weights and preset.metric.weights is None:
        raise InputError(
            f"metric net {preset.metric.architecture!r} starts from published weights: give their .safetensors file "
            "with --metric.weights, or take another --metric.architecture"
        )
    if preset.metric.weights is not None and not Path(preset.metric.weights).is_file():
        raise InputError(f"metric.weights is {preset.metric.weights}, which is no file; give a .safetensors file")
    if preset.metric.weights is not None:
        _check_weights(preset.metric, definition.shape)


@cache
def _check_weights(options: MetricNetConfig, shape: tuple[int, ...]) -> None:
    """Refuse weights that do not fit, before a backbone is trained beside them; a file is read for it once."""
    with torch.random.fork_rng([]):
        build_metric_net(options, shape=shape)


def _take_sample(rows: Rows, count: int) -> Batch:
    """Return a seeded sample of `count` rows, or all of fewer."""
    return rows.take(np.sort(np.random.default_rng(_SEED).permutation(len(rows))[:count]))
