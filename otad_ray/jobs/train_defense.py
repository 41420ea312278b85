"""Train the network of a baseline, a defense that OTAD is compared with, unless it is there already.

python jobs/train_defense.py pgd_at mnist
python jobs/train_defense.py pgd_at mnist --defense-settings pgd_at.eps=0.2 pgd_at.epochs=3
"""

from dataclasses import dataclass
from typing import Any

from tyro.conf import Suppress

from otad_ray.jobs.train import run_train_job
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.baselines.recipe import BaselineRecipe, ensure_baseline


@dataclass(frozen=True, kw_only=True)
class DefenseJobConfig(TrainJobConfig):
    """What to train, and on which workers.

    Attributes:
        defense: the baseline's name; `otad defenses` lists them. It comes first on the command line.
    """

    defense: Suppress[str] = ""


def run_defense_training(config: DefenseJobConfig) -> dict[str, Any]:
    """Train a baseline on a preset's data set, and return the job's summary."""
    return run_train_job(
        config, BaselineRecipe.kind, lambda workspace, trainer: ensure_baseline(workspace, config.defense, trainer)
    )
