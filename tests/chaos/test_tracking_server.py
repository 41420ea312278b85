"""Tracking servers that are down, refuse or hang: the results are complete, in hardly more time, and logged later."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.chaos_jobs import Job, run_here
from helpers.chaos_verdict import Verdict
from otad_ray.jobs.log_pending import LogPendingConfig, run_log_pending
from otad_ray.tracking import pending_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_SECONDS = 10


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    def do_POST(self) -> None:
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@contextmanager
def down() -> Iterator[int]:
    """A port that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        yield server.getsockname()[1]


@contextmanager
def hanging() -> Iterator[int]:
    """The kernel accepts connections that nobody ever answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@contextmanager
def refusing() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("server", [down, refusing, hanging], ids=lambda server: server.__name__)
def test_a_server_that_takes_nothing(
    job: Job,
    server: Callable,
    finished: Callable[[Job], Path],
    storage: Path,
    head: str,
    tmp_path: Path,
    verdict: Verdict,
) -> None:
    began = time.monotonic()
    undisturbed = shutil.copytree(storage, tmp_path / "undisturbed")
    assert run_here(job, Path(undisturbed), "--address", head) == 0
    usual = time.monotonic() - began
    with server() as port:
        began = time.monotonic()
        assert run_here(job, storage, "--address", head, "--tracking-uri", f"http://127.0.0.1:{port}") == 0
        assert time.monotonic() - began - usual < _SECONDS
    waiting = len(pending_files(storage))
    assert waiting > 0
    replayed = run_log_pending(LogPendingConfig(storage=str(storage)))
    assert (replayed["logged"], replayed["pending"]) == (waiting, 0)
    verdict(f"tracking {server.__name__}", job, storage)
