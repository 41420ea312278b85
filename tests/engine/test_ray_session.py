"""What a cluster can take: workers that fit on its nodes, and those that would wait for ever."""

import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from otad_ray.engine.ray_session import WorkerResources, ray_session, worker_resources
from otad_ray.errors import InputError

GPU_NODE, HEAD = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "num_workers", "expected"),
    [
        ([{"CPU": 5.0}], 1, WorkerResources(4, use_gpu=False)),
        ([{"CPU": 4.0}, {"CPU": 4.0}], 3, WorkerResources(2, use_gpu=False)),
        # Not 7, which no node has.
        ([{"CPU": 4.0}, {"CPU": 4.0}], 1, WorkerResources(4, use_gpu=False)),
        ([HEAD, GPU_NODE], 2, WorkerResources(4, use_gpu=True)),
        ([HEAD, GPU_NODE, GPU_NODE], 4, WorkerResources(4, use_gpu=True)),
    ],
)
def test_workers_fit_on_the_nodes(
    nodes: list[dict[str, float]], num_workers: int, expected: WorkerResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr("ray.cluster_resources", lambda: total)
    monkeypatch.setattr("ray.available_resources", lambda: total)
    assert worker_resources(num_workers) == expected
    if total["GPU"]:
        with pytest.raises(InputError, match=rf"num_workers is 5, but the cluster has {total['GPU']:.0f} free GPUs"):
            worker_resources(5)
        assert not worker_resources(num_workers, use_gpu=False).use_gpu
    else:
        with pytest.raises(InputError, match="the cluster has 0 free GPUs"):
            worker_resources(num_workers, use_gpu=True)


@pytest.mark.parametrize(
    ("nodes", "free", "message"),
    [
        ([HEAD, GPU_NODE], {"CPU": 12.0, "GPU": 0.0}, "has 0 free GPUs"),
        ([HEAD, {"GPU": 2.0}], {"CPU": 4.0, "GPU": 2.0}, "nodes have room for 0, each with a CPU and a GPU"),
    ],
)
def test_workers_that_would_wait_for_ever_are_refused(
    nodes: list[dict[str, float]], free: dict[str, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr("ray.cluster_resources", lambda: total)
    monkeypatch.setattr("ray.available_resources", lambda: free)
    with pytest.raises(InputError, match=message):
        worker_resources(2)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:8265"])
def test_address_of_a_job_server_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(InputError, match=f"'{address}' .* is the address of a job server; submit .* or give"),
        ray_session(),
    ):
        pass


@pytest.mark.parametrize(("length", "folder"), [(51, "/tmp/ray"), (30, None)])
def test_sockets_of_a_cluster_of_our_own_have_short_paths(
    length: int, folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: started.append(arguments))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + (length - 1) * "t")
    with ray_session():
        assert started[0]["_temp_dir"] == folder


def test_workers_take_the_environment_of_a_job_under_uv() -> None:
    """Ray reads the setting when it is imported, so this asks a new process."""
    script = "import otad_ray.engine, ray; print(ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
