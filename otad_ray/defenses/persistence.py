"""Saved defenses by kind, and how one is loaded."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from otad_ray.cip import Regularity
from otad_ray.defenses.base import DESCRIPTION, Defense, MemoryDefense
from otad_ray.defenses.knn import KNN
from otad_ray.defenses.otad import OTAD
from otad_ray.defenses.undefended import Undefended
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import Backbone, load_backbone


def _otad(backbone: Backbone, memory: NeighborMemory, settings: dict[str, Any]) -> OTAD:
    config = dict(settings["config"])
    return OTAD(backbone, memory, IntegrationConfig(**{**config, "regularity": Regularity(**config["regularity"])}))


def _knn(backbone: Backbone, memory: NeighborMemory, settings: dict[str, Any]) -> KNN:
    return KNN(backbone, memory, settings["neighbors"])


MEMORY_DEFENSES: Mapping[str, Callable[[Backbone, NeighborMemory, dict[str, Any]], MemoryDefense]] = {
    OTAD.kind: _otad,
    KNN.kind: _knn,
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
        return MEMORY_DEFENSES[kind](backbone, memory, description["settings"]).eval()
    except FileNotFoundError:
        raise InputError(f"{directory} is no defense: it has no {DESCRIPTION}") from None
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{directory / DESCRIPTION} cannot be used: {error!r}") from error
