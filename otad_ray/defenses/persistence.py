"""Saved defenses by kind, and how one is loaded."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from otad_ray.cip import Regularity
from otad_ray.defenses.base import CIP_NET_FOLDER, DESCRIPTION, METRIC_FOLDER, Defense, MemoryDefense
from otad_ray.defenses.knn import KNN
from otad_ray.defenses.otad import OTAD
from otad_ray.defenses.otad_nn import OTADNN
from otad_ray.defenses.undefended import Undefended
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import Backbone, MetricNet, load_backbone, load_cip_net, load_metric_net


def _config(settings: dict[str, Any]) -> IntegrationConfig:
    config = dict(settings["config"])
    return IntegrationConfig(**{**config, "regularity": Regularity(**config["regularity"])})


# How each is made of a backbone, a memory, a metric net or none, its settings, and the folder with what else it saved.
MEMORY_DEFENSES: Mapping[
    str, Callable[[Backbone, NeighborMemory, MetricNet | None, dict[str, Any], Path], MemoryDefense]
] = {
    OTAD.kind: lambda backbone, memory, metric, settings, _: OTAD(backbone, memory, _config(settings), metric),
    KNN.kind: lambda backbone, memory, metric, settings, _: KNN(backbone, memory, settings["neighbors"], metric),
    OTADNN.kind: lambda backbone, memory, metric, settings, directory: OTADNN(
        backbone, memory, load_cip_net(directory / CIP_NET_FOLDER).to(memory.points.device), _config(settings), metric
    ),
}
DEFENSES = (*MEMORY_DEFENSES, Undefended.kind)


def load_defense(directory: str | Path, *, search: str = "torch", device: str | torch.device = "cpu") -> Defense:
    """The defense that `save` wrote, in evaluation mode; InputError where it cannot be loaded."""
    directory = Path(directory).absolute()
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
        kind = description["kind"]
        if kind not in DEFENSES:
            raise InputError(f"unknown defense {kind!r} in {directory}; known: {', '.join(DEFENSES)}")
        backbone = load_backbone(directory / description["backbone"]).to(device)
        if kind == Undefended.kind:
            return Undefended(backbone).eval()
        memory = NeighborMemory.load((directory / description["memory"]).resolve(), search=search, device=device)
        metric = load_metric_net(directory / METRIC_FOLDER).to(device) if METRIC_FOLDER in description else None
        return MEMORY_DEFENSES[kind](backbone, memory, metric, description["settings"], directory).eval()
    except FileNotFoundError:
        raise InputError(f"{directory} is no defense: it has no {DESCRIPTION}") from None
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{directory / DESCRIPTION} cannot be used: {error!r}") from error
