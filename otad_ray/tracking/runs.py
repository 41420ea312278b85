"""One MLflow run per job, logged after its results are on disk and without power to harm them."""

import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

logger = logging.getLogger(__name__)

# A default client waits 246 s for a dead server; this one gives up after less than 10, also on a hanging one.
_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_SCHEMELESS = ("databricks", "databricks-uc", "uc")
_KIND_TAG = "otad.kind"
_LOCAL_SERVER = "http://127.0.0.1:5000"
_refused: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """Input rows of a run: name (data set and split), digest of their content, where they were read, their number."""

    name: str
    digest: str
    origin: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a job tells about itself.

    experiment: the preset. kind: what was made, such as "labels". params: flat or nested configuration.
    series: metric histories, each a list of (step, value). data: the rows that were worked on.
    artifacts: small files. tags: flat.
    """

    experiment: str
    kind: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    series: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    data: DataRecord | None = None
    artifacts: tuple[Path, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def default_tracking_uri(given: str | None, root: Path) -> str:
    """`given`, else `MLFLOW_TRACKING_URI`, else SQLite below the storage root; always absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    known = "://" in uri or uri in _SCHEMELESS
    return uri if known else Path(uri).absolute().as_uri()


def redacted(uri: str) -> str:
    """The URI without user name, password and query, for logs."""
    parts = urlsplit(uri)
    netloc = "***@" + parts.netloc.rpartition("@")[2] if "@" in parts.netloc else parts.netloc
    if (netloc, parts.query) == (parts.netloc, ""):
        return uri
    return urlunsplit(parts._replace(netloc=netloc, query="***" if parts.query else ""))


def how_to_look(uri: str) -> str:
    """What a person does to see the runs: a command where the store is a local file, else the address."""
    if uri.startswith(("http://", "https://")):
        return redacted(uri)
    return f"{Path(sys.executable).with_name('mlflow')} ui --host 127.0.0.1 --backend-store-uri {redacted(uri)}"


def compare_link(uri: str, run_ids: Sequence[str]) -> str | None:
    """The page of MLflow that shows runs of one experiment side by side; None where there are none to compare.

    Where the store is a local file, the address is that of the server that `how_to_look` starts.
    """
    if len(run_ids) < 2:
        return None
    import mlflow

    try:
        with client_environment():
            experiment = mlflow.MlflowClient(tracking_uri=uri).get_run(run_ids[0]).info.experiment_id
    except Exception as error:
        logger.warning("no link to compare runs: %s", type(error).__name__)
        return None
    base = redacted(uri).rstrip("/") if uri.startswith(("http://", "https://")) else _LOCAL_SERVER
    runs, experiments = (quote(json.dumps(names, separators=(",", ":"))) for names in (list(run_ids), [experiment]))
    return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"


def track(record: RunRecord, *, tracking_uri: str, root: Path) -> str | None:
    """Log a finished job as one run and return its id; None, with a warning, where the server does not take it.

    A server that did not take a run is not asked again by this process.
    """
    if tracking_uri in _refused:
        logger.warning("not tracked: %s did not take an earlier run", redacted(tracking_uri))
        return None
    started = time.perf_counter()
    try:
        with client_environment(), _one_at_a_time(tracking_uri, root):
            return _log(record, tracking_uri, root)
    except Exception as error:
        # Tracking is a copy: whatever goes wrong with it must not fail a job whose results are on disk.
        if tracking_uri.startswith(("http://", "https://")):
            _refused.add(tracking_uri)
        logger.warning(
            "not tracked: %s did not take the run after %.1f s (%s: %s); the results are on disk, and the same command "
            "logs them when it answers",
            redacted(tracking_uri),
            time.perf_counter() - started,
            type(error).__name__,
            str(error).replace(tracking_uri, redacted(tracking_uri)).splitlines()[0][:300] if str(error) else "",
        )
        return None


def _log(record: RunRecord, tracking_uri: str, root: Path) -> str:
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    experiment = client.get_experiment_by_name(record.experiment)
    if experiment is None:
        # With a database and no server, artifacts would go below the working directory.
        location = (root / "mlartifacts").as_uri() if tracking_uri.startswith("sqlite:") else None
        experiment_id = client.create_experiment(record.experiment, artifact_location=location)
    else:
        experiment_id = experiment.experiment_id
    now = int(time.time() * 1000)
    tags = {_KIND_TAG: record.kind, **record.tags}
    run = client.create_run(experiment_id, tags=tags, run_name=f"{record.kind}-{time.strftime('%Y%m%d-%H%M%S')}")
    run_id = run.info.run_id
    metrics = [Metric(name, float(value), now, 0) for name, value in record.metrics.items()]
    metrics += [Metric(name, value, now, step) for name, points in record.series.items() for step, value in points]
    params = [Param(name, str(value)[:6000]) for name, value in _flat(record.params)]
    for start in range(0, max(len(metrics), len(params)), 100):
        client.log_batch(run_id, metrics=metrics[start : start + 100], params=params[start : start + 100])
    if record.data is not None:
        data = Dataset(
            name=record.data.name,
            digest=record.data.digest,
            source_type="local",
            source=json.dumps({"uri": record.data.origin}),
            profile=json.dumps({"num_rows": record.data.rows}),
        )
        client.log_inputs(run_id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "input")])])
    for path in record.artifacts:
        client.log_artifact(run_id, str(path))
    client.log_batch(run_id, tags=[RunTag("otad.complete", "true")])
    client.set_terminated(run_id)
    return run_id


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@contextmanager
def _one_at_a_time(tracking_uri: str, root: Path) -> Iterator[None]:
    """Two processes that first open one SQLite file make the same tables, and one of them fails."""
    if not tracking_uri.startswith("sqlite:"):
        yield
        return
    with (root / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def client_environment() -> Iterator[None]:
    """MLflow's client set to give up soon, for the duration of the block; what the user has set stays."""
    added = {name: value for name, value in _CLIENT_SETTINGS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
