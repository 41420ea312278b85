"""Experiment tracking: the only package that imports mlflow."""

from otad_ray.tracking.runs import DataRecord, RunRecord, default_tracking_uri, how_to_look, redacted, track

__all__ = ["DataRecord", "RunRecord", "default_tracking_uri", "how_to_look", "redacted", "track"]
