"""All of OTAD-T and OTAD-T-NN on digits, in seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from otad_ray.models import BackboneConfig, CipNetConfig, MetricNetConfig, ViTConfig
from otad_ray.options import JobConfig
from otad_ray.presets import PRESETS, Preset
from otad_ray.recipes.cip_net import ensure_cip_net
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace

SMALL = PRESETS["digits_vit"]


def preset(**changes: Any) -> Preset:
    """All of digits_vit in seconds."""
    small = replace(
        SMALL,
        backbone=BackboneConfig(architecture="vit", num_blocks=1, vit=ViTConfig(patch_size=2, width=16, num_heads=2)),
        training=replace(SMALL.training, epochs=8, learning_rate=1e-2),
        metric=MetricNetConfig(architecture="cnn", width=8),
        metric_training=replace(SMALL.metric_training, epochs=4, learning_rate=3e-3),
        cip_net=CipNetConfig(width=32, num_blocks=1, num_heads=2),
        cip_net_training=replace(SMALL.cip_net_training, epochs=8),
        integration=replace(SMALL.integration, num_neighbors=5),
    )
    return replace(small, **changes)


def describe_defense(result: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a sweep's manifest says of a defense."""
    return json.loads((Path(result["sweep"]) / "manifest.json").read_text())["defenses"][name]


def only(storage: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """Return the directory and the manifest of the only artifact of a kind."""
    (directory,) = (storage / "digits_vit" / kind).iterdir()
    return directory, json.loads((directory / "manifest.json").read_text())


def cip_net_metrics(asked: Preset, storage: Path, **options: Any) -> tuple[Path, dict[str, float]]:
    """Train a CIP-net in this process; return its directory and manifest."""
    directory, _ = ensure_cip_net(Workspace(JobConfig(preset=asked, storage=str(storage))), **options)
    return directory, json.loads((directory / "manifest.json").read_text())


def only_cip_net(storage: Path, head: str) -> dict[str, Any]:
    """Return the manifest of the CIP-net of the unchanged preset, but for the head."""
    return json.loads((only_cip_net_directory(storage, head) / "manifest.json").read_text())


def only_cip_net_directory(storage: Path, head: str = "simplex") -> Path:
    memory = ensure_memory(Workspace(JobConfig(preset=preset(), storage=str(storage), build=False)))
    manifests = {
        path.parent: json.loads(path.read_text()) for path in storage.glob("digits_vit/cip_net/*/manifest.json")
    }
    (found,) = [
        directory
        for directory, item in manifests.items()
        if item["identity"]["cip_net"]["head"] == head
        and item["memory"] == memory.fingerprint
        and item["identity"]["training"]["seed"] == 0
    ]
    return found


def only_metric(storage: Path) -> dict[str, Any]:
    manifests = [json.loads(path.read_text()) for path in storage.glob("digits_vit/metric/*/manifest.json")]
    (found,) = [item for item in manifests if item["identity"]["architecture"] == "cnn"]
    return found
