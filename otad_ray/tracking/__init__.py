"""Experiment tracking: the only package that imports mlflow."""

from otad_ray.tracking.history import TrackedRun, latest_run
from otad_ray.tracking.runs import (
    DataRecord,
    RunRecord,
    compare_link,
    default_tracking_uri,
    how_to_look,
    redacted,
    track,
)

__all__ = [
    "DataRecord",
    "RunRecord",
    "TrackedRun",
    "compare_link",
    "default_tracking_uri",
    "how_to_look",
    "latest_run",
    "redacted",
    "track",
]
