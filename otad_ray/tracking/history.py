"""Runs that were tracked before: the other direction of `track`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from otad_ray.errors import InputError
from otad_ray.tracking.runs import COMPLETE
from otad_ray.tracking.store import DeletedExperimentError, StoreError, check_active, open_store


@dataclass(frozen=True)
class TrackedRun:
    """A finished run: its id, its tags, and where its artifacts were copied to."""

    run_id: str
    tags: Mapping[str, str]
    artifacts: Path


def latest_run(
    tracking_uri: str, experiment: str, tags: Mapping[str, str], destination: Path, *, unlike: Mapping[str, str]
) -> TrackedRun | None:
    """Return the newest complete run of an experiment with these tags, or None if there is none.

    Args:
        tracking_uri: the store.
        experiment: by name.
        tags: that the run has.
        destination: folder below which its artifacts are copied.
        unlike: tags that it has with other values.

    Raises:
        InputError: if the store does not answer, or the experiment was deleted: nothing known is not the same as
            nothing there.
    """
    conditions = [(name, "=", value) for name, value in {**tags, COMPLETE: "true"}.items()]
    conditions += [(name, "!=", value) for name, value in unlike.items()]
    wanted = " and ".join(f"tags.`{name}` {sign} '{value}'" for name, sign, value in conditions)
    try:
        with open_store(tracking_uri) as store:
            ask, client = store.ask, store.client
            found = ask(client.get_experiment_by_name, experiment)
            if found is None:
                return None
            check_active(tracking_uri, found)
            runs = ask(
                client.search_runs,
                [found.experiment_id],
                filter_string=wanted,
                order_by=["attributes.start_time DESC"],
                max_results=1,
            )
            if not runs:
                return None
            run_id = runs[0].info.run_id
            target = tempfile.mkdtemp(dir=destination)
            size = sum(item.file_size or 0 for item in ask(client.list_artifacts, run_id))
            path = ask(client.download_artifacts, run_id, "", target, size=size)
    except DeletedExperimentError as error:
        raise InputError(f"no earlier runs are known: {error}") from error
    except StoreError as error:
        raise InputError(f"no earlier runs are known: {error}; start the server or correct the tracking URI") from error
    return TrackedRun(run_id, dict(runs[0].data.tags), Path(path))
