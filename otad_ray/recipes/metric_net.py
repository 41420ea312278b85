"""A preset's metric net: where it lies, and how a missing one is trained."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from otad_ray.artifacts import file_sha256, to_jsonable
from otad_ray.data import Batch, Rows
from otad_ray.engine.training import SampleTask, Trainer, train_here
from otad_ray.errors import InputError
from otad_ray.evaluation import neighbor_accuracy
from otad_ray.models import (
    NO_METRIC,
    MetricNet,
    MetricNetConfig,
    build_metric_net,
    load_metric_net,
    metric_net_config,
    save_metric_net,
)
from otad_ray.options import TrainJobConfig
from otad_ray.presets import Preset
from otad_ray.recipes.backbone import check_neighbors, check_rows, held_out_split
from otad_ray.recipes.networks import TrainedNetwork, ensure_network, find_network, train_job
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, train_metric_net

# Training rows that a finished net finds neighbors among, and rows that it finds them for.
_VOTERS, _VOTES = 10_000, 1000
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class MetricTask(SampleTask):
    """A preset's metric net, trained on the rows of its backbone."""

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


def ensure_metric(workspace: Workspace, trainer: Trainer = train_here) -> tuple[Path, MetricNet] | None:
    """The preset's trained metric net and its directory; trained first where missing. None for a preset without."""
    if not workspace.preset.has_metric:
        return None
    check_metric_options(workspace)
    check_neighbors(workspace)
    directory = ensure_network(workspace, _metric_net(workspace), trainer)
    return directory, load_metric_net(directory)


def find_metric(workspace: Workspace) -> MetricNet | None:
    """The preset's trained metric net, None for a preset without; InputError where there is none yet."""
    if not workspace.preset.has_metric:
        return None
    return load_metric_net(find_network(workspace, _metric_net(workspace)))


def check_metric_options(workspace: Workspace) -> None:
    """InputError, before any work, for a metric net that the preset's samples do not fit."""
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
    """InputError for weights that do not fit, before a backbone is trained beside them; a file is read for it once."""
    with torch.random.fork_rng([]):
        build_metric_net(options, shape=shape)


def _metric_net(workspace: Workspace) -> TrainedNetwork:
    preset, definition = workspace.preset, workspace.definition
    rows = workspace.rows(preset.training.rows)
    return TrainedNetwork(
        kind="metric",
        job="train_metric",
        identity={
            "data": rows.fingerprint,
            "architecture": preset.metric.architecture,
            "metric": to_jsonable(metric_net_config(preset.metric, shape=definition.shape)),
            "weights": _digest(preset),
            "training": to_jsonable(preset.metric_training),
        },
        check=partial(check_rows, workspace),
        task=MetricTask.of(workspace),
        measure=partial(_measure, workspace),
        save=save_metric_net,
        params={"metric": preset.metric, "metric_training": preset.metric_training},
        manifest={},
    )


def _digest(preset: Preset) -> str | None:
    weights = preset.metric.weights
    return None if weights is None else file_sha256(Path(weights))


def _measure(workspace: Workspace, net: nn.Module) -> dict[str, float]:
    """Whether neighbors are of one class: accuracies of a vote among them, held-out rows against training rows."""
    assert isinstance(net, MetricNet)
    preset, split = workspace.preset, held_out_split(workspace)
    known, asked = (
        _sample(workspace.rows(part), count) for part, count in ((preset.training.rows, _VOTERS), (split, _VOTES))
    )
    accuracies = neighbor_accuracy(net, known, asked, neighbors=preset.integration.neighbors)
    metrics = {f"{split}_{name}": value for name, value in accuracies.items()}
    bound = net.lipschitz_bound()
    return metrics if bound is None else {**metrics, "lipschitz_bound": bound}


def _sample(rows: Rows, count: int) -> Batch:
    """A seeded sample of so many rows, or all of fewer."""
    return rows.take(np.sort(np.random.default_rng(_SEED).permutation(len(rows))[:count]))


def run_metric_training(config: TrainJobConfig) -> dict[str, Any]:
    """The training job of a metric net; what the last line of its output says."""
    if not config.preset.has_metric:
        raise InputError(
            f"preset {config.preset.name!r} has no metric net (metric.architecture is {NO_METRIC!r}): its points are "
            "searched themselves; give one with --metric.architecture"
        )

    def ensure(workspace: Workspace, trainer: Trainer) -> Path:
        found = ensure_metric(workspace, trainer)
        assert found is not None
        return found[0]

    return train_job(config, "metric", ensure)
