"""Servers that are dead, refuse or hang: they cost seconds, once, and lose nothing."""

import json
import logging
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

# Every job pays for its import, whatever the server does.
import mlflow  # noqa: F401
import pytest

from otad_ray.errors import InputError
from otad_ray.tracking import RunRecord, compare_link, latest_run, pending_files, runs_link, store, track

RECORD = RunRecord(experiment="digits", kind="labels", result={"directory": "a"}, params={}, metrics={"rows": 1})
OTHER = RunRecord(experiment="digits", kind="labels", result={"directory": "b"}, params={}, metrics={"rows": 1})


class Handler(BaseHTTPRequestHandler):
    """Answers as `behavior` says, which a subclass sets: a status, "later" or "drip"."""

    behavior: int | str
    closing: Event

    def answer(self) -> None:
        if self.behavior == "later" and "get-by-name" in self.path:
            self.send(200, {"experiment": {"experiment_id": "1", "name": "digits", "lifecycle_stage": "active"}})
        elif self.behavior == "later":
            self.closing.wait()
        elif self.behavior == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with suppress(OSError):
                while not self.closing.wait(0.1):
                    self.wfile.write(b" ")
                    self.wfile.flush()
        else:
            self.send(int(self.behavior), {"error_code": "INTERNAL_ERROR", "message": "no"})

    do_GET = do_POST = answer  # noqa: N815

    def send(self, status: int, body: dict) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def server(behavior: int | str) -> Iterator[str]:
    """The URI, with credentials, of a server that is "dead" or "silent", or behaves as `Handler` says."""
    if behavior in ("dead", "silent"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if behavior == "silent":
                # The kernel accepts connections that nobody ever answers.
                listener.listen()
            yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
        return
    closing = Event()
    handler = type("Told", (Handler,), {"behavior": behavior, "closing": closing})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://user:secret@127.0.0.1:{running.server_address[1]}"
        finally:
            closing.set()
            running.shutdown()
            thread.join()


def seconds_lost(uri: str, root: Path) -> float:
    """What a process loses that asks in all the ways there are."""
    started = time.monotonic()
    assert track(RECORD, tracking_uri=uri, root=root) is None
    assert track(OTHER, tracking_uri=uri, root=root) is None
    assert compare_link(uri, ["a", "b"]) is None
    assert runs_link(uri, "a") is None
    with pytest.raises(InputError, match="no earlier runs are known"):
        latest_run(uri, "digits", {}, root, unlike={})
    return time.monotonic() - started


@pytest.mark.parametrize("behavior", ["dead", "silent", "later", "drip", 500, 403, 401])
def test_a_bad_server_is_given_up_and_the_results_wait(
    behavior: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "_PATIENCE_SECONDS", 0.1)
    with server(behavior) as uri, caplog.at_level(logging.WARNING):
        lost = seconds_lost(uri, tmp_path)
    assert lost < 5
    files = pending_files(tmp_path)
    assert len(files) == 2
    assert "secret" not in caplog.text + "".join(path.read_text() for path in files)
    assert "otad log-pending" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("behavior", ["dead", "silent", "later", "drip", 500, 403, 401])
def test_bad_server_costs_a_process_little_time(behavior: int | str, tmp_path: Path) -> None:
    with server(behavior) as uri:
        lost = seconds_lost(uri, tmp_path)
    print(f"{behavior}: {lost:.2f} s")
    assert lost < 4.9


def test_the_users_own_timeout_is_the_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PATIENCE_SECONDS", 60)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with server("drip") as uri:
        assert 1 < seconds_lost(uri, tmp_path) < 5


def test_patience_is_spent_by_slow_answers_and_comes_back_with_prompt_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PROMPT_SECONDS", 0.05)
    monkeypatch.setattr(store, "_RECOVERY_SECONDS", 0.01)
    asked = store.Store("http://127.0.0.1:9", patience=0.5)
    asked.ask(time.sleep, 0.25)
    spent = store._spent[asked.uri]
    assert 0.15 < spent < 0.5
    asked.ask(time.sleep, 0)
    assert store._spent[asked.uri] == pytest.approx(spent - 0.01)
    assert asked.ask(time.sleep, 0.2, size=10**6) is None
    with pytest.raises(TimeoutError, match="no answer within"):
        asked.ask(time.sleep, 30)


def test_a_database_that_is_locked_or_no_place_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_DATABASE_LOCK_SECONDS", 0.1)
    started = time.monotonic()
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert track(RECORD, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", root=tmp_path) is None
    finally:
        holder.close()
    assert track(RECORD, tracking_uri="sqlite:////proc/mlflow.db", root=tmp_path) is None
    assert time.monotonic() - started < 2
    assert len(pending_files(tmp_path)) == 1
