"""Fit the potential over all training points that otad_global needs: the graph by shards, then least squares.

python jobs/fit_potential.py mnist
otad fit-potential mnist --potential.graph-neighbors 20
otad fit-potential mnist --offset-training.rows 8192    # and train the offsets for wide margins
otad fit-potential mnist --potential.pieces 3000        # and compress it
"""

from dataclasses import dataclass
from typing import Any

from otad_ray.options import ActorJobConfig
from otad_ray.recipes.global_potential.clusters import clusters_directory
from otad_ray.recipes.global_potential.offsets import check_preset, ensure_pieces, trained_directory
from otad_ray.recipes.global_potential.potentials import PotentialJob
from otad_ray.recipes.shard_job import open_workspace, run_shard_job


@dataclass(frozen=True, kw_only=True)
class PotentialJobConfig(ActorJobConfig):
    """Options of the job; those of the graph are the preset's."""


def run_potential_job(config: PotentialJobConfig) -> dict[str, Any]:
    """Fit the potentials of every row of the memory, and train their offsets or cluster the rows if that is asked for.

    A rerun computes what is missing.

    Returns:
        The job's summary; `offsets` is the directory of the trained offsets, `clusters` that of the clusters, or None.
    """
    check_preset(config.preset)
    workspace = open_workspace(config)
    result = run_shard_job(PotentialJob(workspace, rows_per_shard=config.rows_per_shard))
    is_trained, is_compressed = config.preset.offset_training.rows > 0, config.preset.potential.pieces is not None
    if is_trained or is_compressed:
        ensure_pieces(workspace)
    return {
        **result,
        "offsets": str(trained_directory(workspace)) if is_trained else None,
        "clusters": str(clusters_directory(workspace)) if is_compressed else None,
    }
