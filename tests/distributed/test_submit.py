"""`ray job submit` against a local head with token authentication, on ports of its own, bound to loopback."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from digits_jobs import QUICK_OPTIONS, REPOSITORY, ROWS, descendants, read_labels

pytestmark = pytest.mark.xdist_group("processes")

BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def stop(process: subprocess.Popen) -> None:
    """End a head and all that it started; asked kindly, Ray takes half a minute."""
    below = descendants(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    for child in [process.pid, *below]:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait(timeout=30)


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """Environment in which `ray` talks to a new head; `OTAD_HEAD` is the address of its job server."""
    names = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "ray-client-server-port",
        "node-manager-port",
        "object-manager-port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OTAD_HEAD": address,
    }
    # Sockets lie below the temporary folder, and their paths must stay short.
    with tempfile.TemporaryDirectory(prefix="otad-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1"]
        command += ["--dashboard-host=127.0.0.1", f"--temp-dir={temporary}", "--object-store-memory=200000000"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        with Path(temporary, "head.log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield environment
        finally:
            stop(process)


def submit(environment: dict[str, str], variables: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    """Submit and wait; a head that has just started may not have its agent yet."""
    arguments = [str(BIN / "ray"), "job", "submit", "--address", environment["OTAD_HEAD"]]
    arguments += ["--working-dir", str(REPOSITORY), "--runtime-env-json", json.dumps({"env_vars": variables})]
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            [*arguments, "--", *command], env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        output = done.stdout + done.stderr
        not_ready = any(sign in output for sign in ("No available agent", "Failed to connect", "Connection refused"))
        if not not_ready or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_submitted_labels_are_complete(head: dict[str, str], tmp_path: Path) -> None:
    variables = {"OTAD_STORAGE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = submit(head, variables, "python", "jobs/label_qcp.py", *QUICK_OPTIONS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    (directory,) = tmp_path.glob("digits/labels/*")
    labels = read_labels(directory)
    assert len(set(labels["id"].to_pylist())) == len(labels) == ROWS
    assert str(directory) in done.stdout
