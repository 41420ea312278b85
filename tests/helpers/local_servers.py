"""A Ray head and a Prometheus for a while: on loopback, on ports of their own, ended with all that they started."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.digits_jobs import descendants

REPOSITORY = Path(__file__).parents[2]
_TOOLS = REPOSITORY / ".tools" / "usr" / "bin"
_RAY = Path(sys.executable).parent / "ray"
_PORTS = (
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


def find_tool(name: str) -> str | None:
    """Path of `prometheus` or `promtool`; None without.

    What a variable of that name in capitals says, else what `make prometheus` fetched, else what is on PATH.
    """
    fetched = _TOOLS / name
    return os.environ.get(name.upper()) or (str(fetched) if fetched.is_file() else shutil.which(name))


@dataclass(frozen=True)
class Head:
    """environment: in which jobs join it. folder: Ray's temporary one. job_server: the address jobs are sent to."""

    environment: Mapping[str, str]
    folder: Path
    job_server: str

    @property
    def service_discovery(self) -> Path:
        """Where Ray says what Prometheus shall scrape."""
        return self.folder / "prom_metrics_service_discovery.json"


@contextmanager
def ray_head(folder: Path, **environment: str) -> Iterator[Head]:
    """A head of three CPUs with token authentication. folder: of a short path, sockets lie below it."""
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    shared = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        **environment,
    }
    command = [str(_RAY), "start", "--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1"]
    command += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--object-store-memory=200000000"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    joining = {**shared, "RAY_ADDRESS": f"127.0.0.1:{ports['port']}"}
    head = Head(joining, folder, job_server=f"http://127.0.0.1:{ports['dashboard-port']}")
    with _process(command, folder / "head.log", env=shared) as process:
        _wait(lambda: _lists_a_target(head), 120, process, "the Ray head")
        yield head


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether it answers."""
        with suppress(OSError), urllib.request.urlopen(f"{self._base}/-/ready", timeout=5) as answer:
            return answer.status == 200
        return False

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Series with their labels (`metric`) and `value`, (time, text), at a time or now."""
        fields = {"query": expression, **({} if at is None else {"time": repr(at)})}
        with urllib.request.urlopen(
            f"{self._base}/api/v1/query?{urllib.parse.urlencode(fields)}", timeout=30
        ) as answer:
            return json.load(answer)["data"]["result"]


@contextmanager
def prometheus(folder: Path, head: Head, rules: Path, *, seconds: int = 1) -> Iterator[Prometheus]:
    """A server that scrapes what the head lists, so often, and evaluates the rules."""
    program = find_tool("prometheus")
    if program is None:
        raise FileNotFoundError("no prometheus: run `make prometheus`, or set PROMETHEUS to its path")
    config = {
        "global": {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(head.service_discovery)]}]}],
    }
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (port,) = _free_ports(1)
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with _process(command, folder / "prometheus.log") as process:
        server = Prometheus(port)
        _wait(server.ready, 60, process, "Prometheus")
        yield server


def _lists_a_target(head: Head) -> bool:
    with suppress(OSError, ValueError):
        return bool(json.loads(head.service_discovery.read_text()))
    return False


@contextmanager
def _process(command: list[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A process in a session of its own, ended with all its descendants."""
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen) -> None:
    """Asked kindly, a Ray head takes half a minute: after three seconds it is not asked."""
    below = descendants(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    for child in [process.pid, *below]:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait(timeout=30)


def _wait(condition: Callable[[], bool], seconds: float, process: subprocess.Popen, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
