"""A preset's pieces of the potential over all training points, with offsets that are trained if that is asked for."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from otad_ray.artifacts import MANIFEST, atomic_directory, to_jsonable, write_json
from otad_ray.cip import Pieces
from otad_ray.errors import InputError
from otad_ray.machine import versions
from otad_ray.memory import average_pieces, move_pieces
from otad_ray.memory.array_files import map_array
from otad_ray.memory.potential import check_regression_share, lift_points
from otad_ray.presets import Preset
from otad_ray.recipes.approximate_search import identify_search
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.global_potential.clusters import ensure_clusters
from otad_ray.recipes.global_potential.potentials import GraphTask, ensure_potentials
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace, describe_data, track_once
from otad_ray.tracking import RunRecord
from otad_ray.training import train_offsets

logger = logging.getLogger(__name__)

_KIND = "offsets"
_OFFSETS = "offsets.npy"


def ensure_pieces(workspace: Workspace) -> Pieces:
    """Return the pieces of the preset's potential; fit, cluster and train what is missing for them."""
    preset = workspace.preset
    check_preset(preset)
    memory = ensure_memory(workspace)
    clusters, potentials = ensure_clusters(workspace), ensure_potentials(workspace)
    if clusters is not None:
        return average_pieces(memory, potentials, clusters, preset.potential)
    pieces = move_pieces(memory, potentials, preset.potential)
    if preset.offset_training.rows == 0:
        return pieces
    directory = trained_directory(workspace)
    if not directory.is_dir():
        workspace.refuse_to_build("trained offsets", directory, GraphTask.job_name)
        _train(workspace, pieces, directory)
    track_once(workspace, directory, _KIND, lambda place, manifest: _make_record(workspace, place, manifest))
    return Pieces(pieces.features, map_array(directory / _OFFSETS, (len(memory),)).to(pieces.features.device))


def check_preset(preset: Preset) -> None:
    """Raise InputError for a regression with a share, and if offsets of pieces that are means should be trained."""
    if preset.definition.task == "regression":
        check_regression_share(preset.potential.share)
    if preset.potential.pieces is not None and preset.offset_training.rows:
        raise InputError(
            "offsets are trained on rows without their own piece, and a mean over many rows is no row's own; "
            "leave out --offset-training.rows, or --potential.pieces"
        )


def trained_directory(workspace: Workspace) -> Path:
    """Return where the trained offsets of the preset lie."""
    return workspace.directory(_KIND, _identify(workspace))


def _identify(workspace: Workspace) -> dict[str, Any]:
    """Return what trained offsets depend on, of JSON types."""
    preset, memory = workspace.preset, ensure_memory(workspace)
    return {
        "memory": memory.fingerprint,
        # Of all pieces: what was trained before potentials could be compressed is found again.
        "potential": {name: value for name, value in to_jsonable(preset.potential).items() if name != "pieces"},
        "training": to_jsonable(preset.offset_training),
        **identify_search(str(memory.search_name)),
    }


def _train(workspace: Workspace, pieces: Pieces, directory: Path) -> None:
    """Train the offsets in this process, and write them."""
    memory, preset = ensure_memory(workspace), workspace.preset
    backbone = ensure_backbone(workspace).network
    margins = backbone.linear_margins()
    if margins is None or backbone.num_outputs == 1:
        raise InputError(
            f"offsets are trained for the margins of an affine head with classes, which {type(backbone).__name__} has "
            "not; leave out --offset-training.rows"
        )
    logger.info("training the offsets of %d pieces", len(pieces))
    trained = train_offsets(
        pieces,
        lift_points(memory, memory.points),
        memory.labels,
        margins,
        preset.potential.smoothness,
        preset.offset_training,
    )
    change = (trained.offsets - pieces.offsets).abs()
    with atomic_directory(directory) as temporary:
        np.save(temporary / _OFFSETS, trained.offsets.cpu().numpy())
        manifest = {
            "kind": _KIND,
            **_identify(workspace),
            "mean_change": float(change.mean()),
            "largest_change": float(change.amax()),
            "versions": versions(),
        }
        write_json(temporary / MANIFEST, manifest)


def _make_record(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    """Return the tracked run of trained offsets."""
    changes = {name: manifest[name] for name in ("mean_change", "largest_change")}
    return RunRecord(
        experiment=workspace.preset.name,
        kind=_KIND,
        name=f"offsets trained on {manifest['training']['rows']} rows",
        job=GraphTask.job_name,
        result={"directory": directory},
        outcome=changes,
        params={"data_set": workspace.preset.data_set, **_identify(workspace)},
        metrics=changes,
        data=describe_data(workspace, workspace.preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )
