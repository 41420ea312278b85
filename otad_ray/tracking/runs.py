"""One MLflow run per result, logged after it is on disk and without power to harm it."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from otad_ray.errors import InputError
from otad_ray.locations import find_database
from otad_ray.locks import one_at_a_time
from otad_ray.tracking.artifact_folder import artifact_folder
from otad_ray.tracking.pending import PendingRun, keep, read_pending
from otad_ray.tracking.records import RunRecord
from otad_ray.tracking.store import (
    DeletedExperimentError,
    Store,
    StoreError,
    check_active,
    is_server,
    open_store,
    redacted,
)

logger = logging.getLogger(__name__)

COMPLETE = "otad.complete"
RESULT = "otad.result"
_KIND = "otad.kind"
# Machine learning, as opposed to applications of language models, of which MLflow shows other pages.
_EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
_LOCAL_SERVER = "http://127.0.0.1:5000"
# How long a job, and a replay, wait for another process that logs the same result.
_JOB_SECONDS, _REPLAY_SECONDS = 5.0, 60.0
_BATCH = 100


@dataclass(frozen=True)
class LoggedRun:
    """The run of a result. new: whether it was logged just now."""

    run_id: str
    new: bool


def track(record: RunRecord, *, tracking_uri: str, root: Path) -> str | None:
    """Log a finished result as one run and return its id; None, with a warning, where the store does not take it.

    It then waits in a file below `<root>/pending` for `replay`, or for the same result to be tracked again. A result
    that was logged before keeps its run.
    """
    try:
        pending = PendingRun.of(record, root)
        try:
            pending = keep(pending, root)
        except OSError as error:
            logger.warning("no pending record in %s (%s)", pending.path.parent, error.strerror)
        logged = _log_pending(pending, tracking_uri, _JOB_SECONDS)
    except StoreError as error:
        # What follows on a store that was given up is no news.
        logger.log(
            logging.DEBUG if error.repeated else logging.WARNING,
            "%s, and what follows, not tracked: %s; the results are on disk, and otad log-pending logs them %s",
            record.kind,
            error,
            "after that" if isinstance(error, DeletedExperimentError) else "when it answers",
        )
    except Exception as error:
        # Tracking is a copy: whatever goes wrong with it must not fail a job whose results are on disk.
        reason = str(error).replace(tracking_uri, "***")
        logger.warning("%s not tracked: %s: %s", record.kind, type(error).__name__, reason)
    else:
        return logged.run_id
    return None


def replay(path: Path, *, tracking_uri: str, root: Path) -> LoggedRun | None:
    """Log a pending run; None where another process did so meanwhile.

    Raises InputError where the file is damaged or what it names is gone, StoreError where the store does not answer.
    """
    try:
        return _log_pending(read_pending(path, root), tracking_uri, _REPLAY_SECONDS)
    except FileNotFoundError:
        return None


def _log_pending(pending: PendingRun, tracking_uri: str, seconds: float) -> LoggedRun:
    """Log a result unless it is, and remove its file. seconds: to wait for another process that is logging it."""
    gone = [path for path in pending.record.artifacts if not path.is_file()]
    if gone:
        raise InputError(
            f"{gone[0]} is gone, which {pending.path} names; bring it back, or delete that file to give up its run"
        )
    try:
        with one_at_a_time(pending.lock, seconds=seconds), open_store(tracking_uri) as store:
            logged = log_run(store, pending)
            pending.path.unlink(missing_ok=True)
            return logged
    except TimeoutError:
        raise StoreError(f"another process is logging {pending.path}") from None


def log_run(store: Store, pending: PendingRun, attach: Callable[[str, str], dict[str, str]] | None = None) -> LoggedRun:
    """Log a result as one complete run, unless there is one; what an earlier attempt left undone is deleted.

    attach: is given the ids of experiment and run, adds to the run, and returns tags for it.
    """
    from mlflow.entities import Metric, Param, RunTag

    ask, client, record = store.ask, store.client, pending.record
    experiment = _experiment(store, record.experiment)
    found = ask(client.search_runs, [experiment], filter_string=f"tags.`{RESULT}` = '{pending.result_id}'")
    for run in found:
        if run.data.tags.get(COMPLETE) == "true":
            return LoggedRun(run.info.run_id, new=False)
    for run in found:
        ask(client.delete_run, run.info.run_id)
    started, finished = _find_times(pending)
    tags = {_KIND: record.kind, RESULT: pending.result_id, **_describe_source(record.job), **record.tags}
    name = record.name or f"{record.kind}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(pending.finished))}"
    run_id = ask(client.create_run, experiment, start_time=started, tags=tags, run_name=name).info.run_id
    metrics = [Metric(name, value, finished, 0) for name, value in record.metrics.items()]
    metrics += [Metric(name, value, finished, step) for name, points in record.series.items() for step, value in points]
    params = [Param(name, value[:6000]) for name, value in record.params.items()]
    for start in range(0, max(len(metrics), len(params)), _BATCH):
        stop = start + _BATCH
        ask(client.log_batch, run_id, metrics=metrics[start:stop], params=params[start:stop])
    _log_data(store, run_id, record)
    for path in record.artifacts:
        ask(client.log_artifact, run_id, str(path), size=path.stat().st_size)
    added = attach(experiment, run_id) if attach else {}
    ask(client.set_terminated, run_id, end_time=finished)
    complete = [RunTag(name, value) for name, value in {**added, COMPLETE: "true"}.items()]
    ask(client.log_batch, run_id, tags=complete)
    return LoggedRun(run_id, new=True)


def _find_times(pending: PendingRun) -> tuple[int, int]:
    """Return when the job of a result began and when the result was complete, in milliseconds since 1970."""
    started = pending.finished if pending.record.started is None else min(pending.record.started, pending.finished)
    return int(started * 1000), int(pending.finished * 1000)


def _describe_source(job: str) -> dict[str, str]:
    """Return MLflow's tags for the job that a run comes from; none for an unknown one."""
    return {"mlflow.source.name": f"jobs/{job}.py", "mlflow.source.type": "JOB"} if job else {}


def compare_link(uri: str, run_ids: Sequence[str]) -> str | None:
    """The page of MLflow that shows runs of one experiment side by side; None where there are none to compare.

    Where the store is a local file, the address is that of the server that `how_to_look` starts.
    """
    if len(run_ids) < 2:
        return None
    experiment = _find_experiment(uri, run_ids[0])
    if experiment is None:
        return None
    runs, experiments = (quote(json.dumps(names, separators=(",", ":"))) for names in (list(run_ids), [experiment]))
    return f"{_page_address(uri)}/#/compare-runs?runs={runs}&experiments={experiments}"


def runs_link(uri: str, run_id: str) -> str | None:
    """Return the page of MLflow that lists the runs of a run's experiment; None if the store does not answer.

    Reached in another way, the page of an experiment shows an empty overview of traces until the switch at its top
    left is set to "Model training": MLflow 3.17 asks the browser, and not the experiment's kind.

    Args:
        uri: the store; for a local file, the address is that of the server that `how_to_look` starts.
        run_id: a run in it.
    """
    experiment = _find_experiment(uri, run_id)
    if experiment is None:
        return None
    return f"{_page_address(uri)}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def _find_experiment(uri: str, run_id: str) -> str | None:
    """Return the id of a run's experiment; None, with a warning, if the store does not answer."""
    try:
        with open_store(uri) as store:
            return store.ask(store.client.get_run, run_id).info.experiment_id
    except StoreError as error:
        logger.warning("no link to runs: %s", error)
        return None


def _page_address(uri: str) -> str:
    return redacted(uri).rstrip("/") if is_server(uri) else _LOCAL_SERVER


def _experiment(store: Store, name: str) -> str:
    """Return the id of an experiment that opens on its runs and charts; make it if it is missing."""
    from mlflow import MlflowException

    found = store.ask(store.client.get_experiment_by_name, name)
    if found is not None:
        check_active(store.uri, found)
        for tag, kind in _EXPERIMENT_KIND.items():
            # A kind that somebody chose stays.
            if tag not in found.tags:
                store.ask(store.client.set_experiment_tag, found.experiment_id, tag, kind)
        return found.experiment_id
    database = find_database(store.uri)
    # With a database and no server, artifacts would go below the working directory.
    location = None if database is None else artifact_folder(database).as_uri()
    try:
        return store.ask(store.client.create_experiment, name, artifact_location=location, tags=dict(_EXPERIMENT_KIND))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        # Another process was faster.
        made: Any = store.ask(store.client.get_experiment_by_name, name)
        return made.experiment_id


def _log_data(store: Store, run_id: str, record: RunRecord) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if record.data is None:
        return
    data = Dataset(
        name=record.data.name,
        digest=record.data.digest,
        source_type="local",
        source=json.dumps({"uri": record.data.origin}),
        profile=json.dumps({"num_rows": record.data.rows}),
    )
    used = [DatasetInput(data, [InputTag("mlflow.data.context", "input")])]
    store.ask(store.client.log_inputs, run_id, datasets=used)
