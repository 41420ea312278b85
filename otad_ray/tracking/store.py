"""Where runs go, how it is asked, and what it may cost a job if it does not answer."""

import os
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from otad_ray.locations import find_database, resolve_tracking_uri, sqlite_uri
from otad_ray.locks import one_at_a_time
from otad_ray.tracking.artifact_folder import follow_database

_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # They would show the credentials of the URI.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_HTTP = ("http://", "https://")
# What a process waits for a store in all, beyond what each call may take in any case. A call that is answered in time
# gives a little of it back, so that a few slow ones in a long job are forgiven.
_PATIENCE_SECONDS = 3.0
_PROMPT_SECONDS = 0.5
_RECOVERY_SECONDS = 0.1
# A new database gets its tables first; one that is locked is found out before.
_DATABASE_SECONDS = 60.0
_DATABASE_LOCK_SECONDS = 2.0
# Slower than this an upload or a download counts as hanging.
_BYTES_PER_SECOND = 1e6
# Answers about the record, not about the server.
_RECORD_ERRORS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")

Answer = TypeVar("Answer")

_spent: dict[str, float] = {}
_refused: set[str] = set()
# Experiments that were found deleted, by address and name.
_deleted: set[tuple[str, str]] = set()


class StoreError(Exception):
    """The store did not answer, or refused; the message holds no credentials. repeated: and it was not asked again."""

    def __init__(self, message: str, *, repeated: bool = False) -> None:
        super().__init__(message)
        self.repeated = repeated


class DeletedExperimentError(StoreError):
    """The experiment that a run belongs to was deleted; the message says how to bring it back."""


class Store:
    """An open store: `ask` calls a method of MLflow's `client`, and gives up on one that does not answer."""

    def __init__(self, uri: str, *, patience: float) -> None:
        import mlflow

        self.uri = uri
        self._patience = patience
        self._prompt = _DATABASE_SECONDS if uri.startswith("sqlite:") else _PROMPT_SECONDS
        # For a server this imports much and asks nothing; for a database it makes the tables.
        make = mlflow.MlflowClient
        self.client = make(tracking_uri=uri) if is_server(uri) else self.ask(make, tracking_uri=uri)

    def ask(self, method: Callable[..., Answer], *arguments: Any, size: int = 0, **named: Any) -> Answer:
        """What the call returns or raises; TimeoutError where that takes too long. size: bytes it moves."""
        # A server that sends a byte now and then is never late for a socket: only another thread can stop waiting.
        outcome: list[tuple[Answer | None, BaseException | None]] = []

        def call() -> None:
            try:
                outcome.append((method(*arguments, **named), None))
            except BaseException as error:
                outcome.append((None, error))

        prompt = self._prompt + size / _BYTES_PER_SECOND
        spent = _spent.get(self.uri, 0.0)
        started = time.monotonic()
        thread = Thread(target=call, daemon=True)
        thread.start()
        thread.join(prompt + max(self._patience - spent, 0.0))
        late = time.monotonic() - started - prompt
        _spent[self.uri] = max(spent + (late if late > 0 else -_RECOVERY_SECONDS), 0.0)
        if not outcome:
            raise TimeoutError(f"no answer within {late + prompt:.1f} s")
        answer, error = outcome[0]
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]


@contextmanager
def open_store(uri: str, *, request_seconds: int = 4) -> Iterator[Store]:
    """The store at a tracking URI, for the duration of the block.

    Raises StoreError for whatever goes wrong with it in the block. A store that did not answer, or refused, is not
    asked again by this process. request_seconds: of one HTTP request, unless MLFLOW_HTTP_REQUEST_TIMEOUT says another
    number, which then is the patience with the server too.
    """
    if uri in _refused:
        raise StoreError(f"{redacted(uri)} did not answer or refused before", repeated=True)
    try:
        patience = float(os.environ.get(_TIMEOUT) or _PATIENCE_SECONDS)
        with client_environment(request_seconds), _database_lock(uri):
            yield Store(uri, patience=patience)
    except StoreError:
        raise
    except Exception as error:
        if getattr(error, "error_code", None) not in _RECORD_ERRORS:
            _refused.add(uri)
        first_line = _without_credentials(str(error), uri).partition("\n")[0][:300]
        raise StoreError(f"{redacted(uri)} failed ({type(error).__name__}: {first_line})") from None


def default_tracking_uri(given: str | None, root: Path) -> str:
    """Return `given`, else `MLFLOW_TRACKING_URI`, else SQLite below the storage root; always absolute.

    Raises:
        InputError: for what MLflow cannot keep runs in.
    """
    named = given or os.environ.get("MLFLOW_TRACKING_URI")
    return resolve_tracking_uri(named) if named else sqlite_uri(root / "mlflow.db")


def is_server(uri: str) -> bool:
    """Whether the store is asked over HTTP."""
    return uri.startswith(_HTTP)


def redacted(uri: str) -> str:
    """The URI without user name, password and query, for logs."""
    if find_database(uri) is not None:
        # A file has no secrets, and its address is pasted into a shell.
        return uri
    parts = urlsplit(uri)
    netloc = "***@" + parts.netloc.rpartition("@")[2] if "@" in parts.netloc else parts.netloc
    if (netloc, parts.query) == (parts.netloc, ""):
        return uri
    return urlunsplit(parts._replace(netloc=netloc, query="***" if parts.query else ""))


def how_to_look(uri: str) -> str:
    """What a person does to see the runs: a command where the store is a local file, else the address."""
    if is_server(uri):
        return redacted(uri)
    return shlex.join([_program(), "ui", "--host", "127.0.0.1", "--backend-store-uri", redacted(uri)])


def check_active(uri: str, experiment: Any) -> None:
    """Refuse an experiment, as MLflow describes it, that was deleted.

    Raises:
        DeletedExperimentError: with the command that restores it; repeated if this process was told before.
    """
    if experiment.lifecycle_stage == "active":
        return
    repeated = (uri, experiment.name) in _deleted
    _deleted.add((uri, experiment.name))
    command = shlex.join([_program(), "experiments", "restore", "--experiment-id", str(experiment.experiment_id)])
    raise DeletedExperimentError(
        f"experiment {experiment.name!r} was deleted in {redacted(uri)}; restore it with: "
        f"MLFLOW_TRACKING_URI={shlex.quote(redacted(uri))} {command}",
        repeated=repeated,
    )


def _program() -> str:
    """Return the path of MLflow's command."""
    return str(Path(sys.executable).with_name("mlflow"))


def _without_credentials(text: str, uri: str) -> str:
    """A message that may quote the URI, or parts of it."""
    parts = urlsplit(uri)
    secrets = [parts.netloc.rpartition("@")[0], parts.query, parts.password or "", unquote(parts.password or "")]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


@contextmanager
def client_environment(request_seconds: int = 4) -> Iterator[None]:
    """MLflow's client set to give up soon, for the duration of the block; what the user has set stays."""
    settings = {**_CLIENT_SETTINGS, _TIMEOUT: str(request_seconds)}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Two processes that first open one SQLite file make the same tables, and one of them fails."""
    path = find_database(uri)
    lock = None if path is None else one_at_a_time(path.with_name(f".{path.name}.lock"), seconds=_DATABASE_SECONDS)
    with lock or nullcontext():
        if path is not None:
            _check_database(path)
            follow_database(path, lock_seconds=_DATABASE_LOCK_SECONDS)
        yield


def _check_database(path: Path) -> None:
    """sqlite3.OperationalError for a file that cannot be written or is locked: MLflow itself would keep trying."""
    with closing(sqlite3.connect(path, timeout=_DATABASE_LOCK_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
