"""Fit the potential over all training points that otad_global needs: the graph by shards, then least squares.

python jobs/fit_potential.py mnist
otad fit-potential mnist --potential.graph-neighbors 20
"""

from dataclasses import dataclass
from typing import Any

from otad_ray.options import ActorJobConfig
from otad_ray.recipes.potential import PotentialJob
from otad_ray.recipes.shard_job import open_workspace, run_shard_job


@dataclass(frozen=True, kw_only=True)
class PotentialJobConfig(ActorJobConfig):
    """Options of the job; those of the graph are the preset's."""


def run_potential_job(config: PotentialJobConfig) -> dict[str, Any]:
    """Fit the potentials of every row of the memory, and return the job's summary; a rerun computes what is missing."""
    workspace = open_workspace(config)
    return run_shard_job(PotentialJob(workspace, rows_per_shard=config.rows_per_shard))
