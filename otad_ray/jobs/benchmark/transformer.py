"""The benchmark's part on transformers, Table IX of the paper, at the sizes of a preset and on rows of its data set."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from otad_ray.benchmarks import Measurement, TransformerConfig, Transformers, measure_transformer, threads
from otad_ray.errors import InputError
from otad_ray.machine import job_command, num_cores
from otad_ray.memory import NeighborMemory
from otad_ray.options import ActorJobConfig
from otad_ray.presets import Preset
from otad_ray.recipes.workspace import Workspace

_MEMORY_ROWS, _SAMPLES = 2000, 128


def check_transformer(preset: Preset) -> None:
    """InputError for a preset whose backbone is no transformer."""
    if preset.backbone.architecture != "vit":
        raise InputError(
            f"part 'transformer' measures transformers, the backbone of preset {preset.name!r} is "
            f"{preset.backbone.architecture!r}; run: {job_command('benchmark')} cifar10_vit --parts transformer"
        )


def measure_table_ix(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Of all cores, and of a GPU where there is one, with a memory of some training rows."""
    networks = _new_networks(workspace)
    train, test = workspace.rows(workspace.preset.training.rows), workspace.rows("test")
    inputs = test.take(np.arange(min(_SAMPLES, len(test)))).x
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".benchmark-") as root, threads(num_cores()):
        directory = Path(root) / "memory"
        networks.remember(directory, train.take(np.arange(min(_MEMORY_ROWS, len(train)))))
        yield from measure_transformer(networks, NeighborMemory.load(directory, search=config.search_name), inputs)
        if torch.cuda.is_available():
            memory = NeighborMemory.load(directory, device="cuda")
            yield from measure_transformer(networks.to("cuda"), memory, inputs.to("cuda"))


def _new_networks(workspace: Workspace) -> Transformers:
    preset, definition = workspace.preset, workspace.definition
    options = TransformerConfig(
        backbone=preset.backbone,
        metric=preset.metric if preset.has_metric else None,
        cip_net=preset.cip_net,
        integration=preset.integration,
    )
    return Transformers(options, shape=definition.shape, num_outputs=definition.num_outputs)
