"""Label every training row with the solution of its convex integration problem, for CIP-net.

The name says QCP, quadratically constrained program: problem (16) of the paper.

python jobs/label_qcp.py                      # digits
python jobs/label_qcp.py mnist --neighbors 5
ray job submit --working-dir . -- python jobs/label_qcp.py mnist
"""

from dataclasses import dataclass
from typing import Any

from otad_ray.options import ActorJobConfig
from otad_ray.recipes.labels import LabelJob
from otad_ray.recipes.shard_job import open_workspace, run_shard_job


@dataclass(frozen=True, kw_only=True)
class LabelJobConfig(ActorJobConfig):
    """Options of the label job.

    Attributes:
        dense: store the features too (D floats a row; the weights and the memory already say them).
        memory: a memory directory to label instead of the preset's.
        labels: directory to write to, or to continue: it may have been started with another solver.
    """

    dense: bool = False
    memory: str | None = None
    labels: str | None = None


def run_label_job(config: LabelJobConfig) -> dict[str, Any]:
    """Label every row of the memory, and return the job's summary.

    A rerun computes what is missing or retryable, and nothing else.
    """
    workspace = open_workspace(config)
    return run_shard_job(
        LabelJob(
            workspace,
            rows_per_shard=config.rows_per_shard,
            dense=config.dense,
            memory=config.memory,
            directory=config.labels,
        )
    )
