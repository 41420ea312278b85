"""Runs that were tracked before: the other direction of `track`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from otad_ray.errors import InputError
from otad_ray.tracking.runs import client_environment, redacted


@dataclass(frozen=True)
class TrackedRun:
    """A finished run: its id, its tags, and where its artifacts were copied to."""

    run_id: str
    tags: Mapping[str, str]
    artifacts: Path


def latest_run(tracking_uri: str, experiment: str, tags: Mapping[str, str], destination: Path) -> TrackedRun | None:
    """The newest complete run of an experiment with these tags, its artifacts copied below `destination`.

    None where there is none. Raises InputError where the store does not answer: nothing known is not the same as
    nothing there.
    """
    import mlflow

    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in {**tags, "otad.complete": "true"}.items())
    try:
        with client_environment():
            client = mlflow.MlflowClient(tracking_uri=tracking_uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                return None
            runs = client.search_runs(
                [found.experiment_id], filter_string=wanted, order_by=["attributes.start_time DESC"], max_results=1
            )
            if not runs:
                return None
            run_id = runs[0].info.run_id
            target = tempfile.mkdtemp(dir=destination)
            path = client.download_artifacts(run_id, "", target)
    except Exception as error:
        raise InputError(
            f"{redacted(tracking_uri)} cannot be asked for earlier runs ({type(error).__name__}); "
            "start the server or correct the tracking URI"
        ) from error
    return TrackedRun(run_id, dict(runs[0].data.tags), Path(path))
