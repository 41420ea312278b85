"""The clusters of training points that a preset's compressed potential has its pieces from."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from otad_ray.artifacts import MANIFEST, atomic_directory, write_json
from otad_ray.machine import versions
from otad_ray.memory import check_compression, cluster_points
from otad_ray.memory.array_files import map_array
from otad_ray.recipes.global_potential.potentials import GraphTask
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace

logger = logging.getLogger(__name__)

_KIND = "clusters"
_CLUSTERS = "clusters.npy"


def ensure_clusters(workspace: Workspace) -> Tensor | None:
    """Return the cluster (N,) of each training point, found first if that is missing; None if each is its own piece."""
    memory, config = ensure_memory(workspace), workspace.preset.potential
    check_compression(memory, config)
    if config.pieces is None:
        return None
    directory = clusters_directory(workspace)
    if not directory.is_dir():
        workspace.refuse_to_build("clusters", directory, GraphTask.job_name)
        logger.info("clustering %d points for %d pieces", len(memory), config.pieces)
        clusters = cluster_points(memory, config)
        found = int(clusters.amax()) + 1
        manifest = {"kind": _KIND, **_identify(workspace), "clusters": found, "versions": versions()}
        with atomic_directory(directory) as temporary:
            np.save(temporary / _CLUSTERS, clusters.numpy())
            write_json(temporary / MANIFEST, manifest)
    return map_array(directory / _CLUSTERS, (len(memory),))


def clusters_directory(workspace: Workspace) -> Path:
    """Return where the clusters of the preset lie."""
    return workspace.directory(_KIND, _identify(workspace))


def _identify(workspace: Workspace) -> dict[str, Any]:
    """Return what clusters depend on, of JSON types."""
    config = workspace.preset.potential
    return {"memory": ensure_memory(workspace).fingerprint, "pieces": config.pieces, "seed": config.seed}
