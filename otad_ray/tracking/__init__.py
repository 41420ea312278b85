"""Experiment tracking: the only package that imports mlflow."""

from otad_ray.tracking.history import TrackedRun, latest_run
from otad_ray.tracking.models import LoggedModel, log_defense
from otad_ray.tracking.pending import pending_files
from otad_ray.tracking.records import DataRecord, RunRecord
from otad_ray.tracking.runs import LoggedRun, compare_link, replay, runs_link, track
from otad_ray.tracking.store import StoreError, default_tracking_uri, how_to_look, redacted

__all__ = [
    "DataRecord",
    "LoggedModel",
    "LoggedRun",
    "RunRecord",
    "StoreError",
    "TrackedRun",
    "compare_link",
    "default_tracking_uri",
    "how_to_look",
    "latest_run",
    "log_defense",
    "pending_files",
    "redacted",
    "replay",
    "runs_link",
    "track",
]
