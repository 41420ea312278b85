"""Log the results that no tracking server has taken yet, as often as you like; ends with 2 if some still wait.

python jobs/log_pending.py
python jobs/log_pending.py --storage DIR --tracking-uri http://127.0.0.1:5000
"""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otad_ray.artifacts import storage_root
from otad_ray.errors import InputError
from otad_ray.recipes.workspace import NIGHTS
from otad_ray.tracking import StoreError, default_tracking_uri, how_to_look, pending_files, redacted, replay

logger = logging.getLogger(__name__)

_ANSWERS = ("logged", "already", "pending")


@dataclass(frozen=True, kw_only=True)
class LogPendingConfig:
    """Options of the replay.

    Attributes:
        storage: storage root (default: OTAD_STORAGE, else ~/otad_ray).
        tracking_uri: MLflow (default: MLFLOW_TRACKING_URI, else SQLite in the storage root).
    """

    storage: str | None = None
    tracking_uri: str | None = None


def run_log_pending(config: LogPendingConfig) -> dict[str, Any]:
    """Log what is pending in a storage root and in its nights; what the last line of the job's output says.

    logged: runs made now. already: results that had theirs. pending: those that still wait.
    """
    root = storage_root(config.storage)
    tracking_uri = default_tracking_uri(config.tracking_uri, root)
    runs, counts = [], Counter[str]()
    # A night is a storage root of its own.
    for place in (root, *sorted((root / NIGHTS).glob("*/"))):
        for path in pending_files(place):
            outcome, run_id = _replay(path, tracking_uri, place)
            counts[outcome] += 1
            runs += [] if run_id is None else [run_id]
    logger.info("%d logged, %d logged before, %d still pending", *(counts[name] for name in _ANSWERS))
    logger.info("MLflow: %s", how_to_look(tracking_uri))
    return {
        **{name: counts[name] for name in _ANSWERS},
        "tracking_uri": redacted(tracking_uri),
        "run_ids": runs,
    }


def _replay(path: Path, tracking_uri: str, root: Path) -> tuple[str, str | None]:
    """Which of the outcomes, and the run's id where it is known."""
    try:
        run = replay(path, tracking_uri=tracking_uri, root=root)
    except (InputError, StoreError) as error:
        logger.warning("%s is still pending: %s", path, error)
        return "pending", None
    if run is None:
        logger.info("%s: another process has logged it", path)
        return "already", None
    logger.info("%s: run %s%s", path, run.run_id, "" if run.new else ", logged before")
    return "logged" if run.new else "already", run.run_id
