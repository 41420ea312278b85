"""Log a defense of a preset, with its backbone and memory, as an MLflow model that loads without pickle.

python jobs/log_model.py                      # OTAD on digits
python jobs/log_model.py mnist --defense knn --register mnist-knn
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otad_ray.defenses.base import DESCRIPTION
from otad_ray.errors import InputError
from otad_ray.options import JobConfig
from otad_ray.recipes.defenses import NAMES, find_defenses
from otad_ray.recipes.workspace import Workspace, describe_data
from otad_ray.tracking import RunRecord, StoreError, how_to_look, log_defense, redacted

logger = logging.getLogger(__name__)

_KIND = "model"
# Rows that the model shows as an example of its inputs.
_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class LogModelConfig(JobConfig):
    """Options of the model job.

    Attributes:
        defense: otad, otad_released (the authors' cross term), otad_nn, otad_global,
            knn, net (undefended), plain_otad, plain_net,
            or a baseline that `otad defenses` lists.
        register: name in the model registry that gets it as a version.
    """

    defense: str = "otad"
    register: str | None = None

    def __post_init__(self) -> None:
        if self.defense not in NAMES:
            raise InputError(f"unknown defense {self.defense!r}; known: {', '.join(NAMES)}")


def run_log_model(config: LogModelConfig) -> dict[str, Any]:
    """Log a defense as a model, once; what the last line of the job's output says.

    Raises InputError where the store does not take it: nothing is lost, and the same command tries again.
    """
    workspace = Workspace(config)
    source = find_defenses(workspace, (config.defense,))[config.defense]
    directory = Path(source.location)
    description = json.loads((directory / DESCRIPTION).read_text())
    record = RunRecord(
        experiment=workspace.preset.name,
        kind=_KIND,
        name=f"model {config.defense}",
        job="log_model",
        started=workspace.started,
        result={"directory": directory},
        params={
            "defense": config.defense,
            "data_set": workspace.preset.data_set,
            "kind": description["kind"],
            **description.get("settings", {}),
        },
        metrics={},
        data=describe_data(workspace, workspace.preset.training.rows),
        tags={"otad.directory": str(directory)},
    )
    try:
        logged = log_defense(
            directory,
            workspace.rows("test").take(np.arange(_EXAMPLES)).x.numpy(),
            record,
            num_outputs=workspace.definition.num_outputs,
            tracking_uri=workspace.tracking_uri,
            root=workspace.root,
            registered_name=config.register,
        )
    except StoreError as error:
        raise InputError(f"the model is not logged: {error}; mend that and run the same command again") from error
    logger.info("model: %s", logged.uri)
    logger.info("MLflow: %s", how_to_look(workspace.tracking_uri))
    return {
        "model": logged.uri,
        "defense": str(directory),
        "registered": None if config.register is None else f"models:/{config.register}/{logged.version}",
        "run_id": logged.run_id,
        "tracking_uri": redacted(workspace.tracking_uri),
    }
