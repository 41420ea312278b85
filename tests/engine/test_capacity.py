"""Room and license tokens: what is asked for, waited for, leased and refused; a node that comes while a job waits."""

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from helpers.digits_jobs import ON_RAY, REPOSITORY, label_config, read_labels
from helpers.mosek_standin import install
from otad_ray.artifacts import to_jsonable
from otad_ray.cip import Status
from otad_ray.engine import capacity
from otad_ray.engine.capacity import (
    MOSEK_TOKEN,
    actor_pool,
    check_num_actors,
    wait_for_room,
)
from otad_ray.engine.metrics_actor import Recorder
from otad_ray.engine.ray_pool import ShardActor
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.task import Unit
from otad_ray.errors import InputError
from otad_ray.memory import RETRYABLE_LABELS, IntegrationConfig, NeighborMemory
from otad_ray.options import PoolRequest
from otad_ray.recipes.labels import LabelTask


class Machines:
    """A cluster's CPUs and tokens as Ray tells of them; an autoscaler that adds what it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scales_to: int = 0, **total: float) -> None:
        self.total, self.used, self.scales_to = total, dict.fromkeys(total, 0.0), scales_to
        self.requests: list[list[dict[str, int]]] = []
        monkeypatch.setattr("ray.is_initialized", lambda: True)
        monkeypatch.setattr("ray.cluster_resources", lambda: self.total)
        monkeypatch.setattr("ray.available_resources", self._free)
        monkeypatch.setattr(capacity, "request_resources", self._request)
        monkeypatch.setattr(capacity, "_POLL_SECONDS", 0.001)

    def _free(self) -> dict[str, float]:
        return {name: self.total[name] - self.used.get(name, 0) for name in self.total}

    def _request(self, bundles: list[dict[str, int]]) -> None:
        self.requests.append(bundles)
        if bundles:
            self.total["CPU"] = min(len(bundles), self.scales_to)


def dual(**fields) -> PoolRequest:
    return PoolRequest(solver="dual", **fields)


def test_a_cluster_that_scales_from_nothing_is_asked_and_the_request_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machines = Machines(monkeypatch, scales_to=100, CPU=0)
    check_num_actors(dual(num_actors=8, wait=60))
    assert machines.requests == []
    with actor_pool(dual(num_actors=8, wait=60), work=1000) as num_actors:
        assert num_actors == 8
        # Eight actors and the CPU that Ray Data needs; nothing is asked for any more.
        assert machines.requests == [[{"CPU": 1}] * 9, []]
    assert "waiting up to 60 s for 9 CPUs" in caplog.text


def test_request_for_capacity_includes_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, scales_to=100, CPU=16)
    machines.used["CPU"] = 14
    with actor_pool(dual(num_actors=4, wait=60), work=1000) as num_actors:
        assert num_actors == 4
    assert machines.requests[0] == [{"CPU": 1}] * 19


def test_no_more_is_waited_for_than_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, scales_to=100, CPU=0)
    with actor_pool(dual(num_actors=50, wait=60), work=3) as num_actors:
        assert num_actors == 3
    assert len(machines.requests[0]) == 4


def test_workers_with_gpus_are_asked_for_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, scales_to=100, CPU=4, GPU=1)
    machines.used["GPU"] = 1

    def grow(bundles: list[dict[str, int]]) -> None:
        machines.requests.append(bundles)
        machines.total["GPU"] = max(machines.total["GPU"], len(bundles))

    monkeypatch.setattr(capacity, "request_resources", grow)
    wait_for_room(2, use_gpu=True, seconds=60)
    # One is in use already.
    assert machines.requests == [[{"CPU": 1, "GPU": 1}] * 3, []]


def test_a_wait_is_bounded_and_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, scales_to=5, CPU=0)
    refused = pytest.raises(InputError, match=r"num_actors is 8, but the cluster has 4 spare")
    with refused, actor_pool(dual(num_actors=8, wait=0.05), work=1000):
        pass
    assert machines.requests[-1] == []
    monkeypatch.setattr("otad_ray.engine.ray_session._SETTLE_SECONDS", 0)
    Machines(monkeypatch, CPU=0)
    with pytest.raises(InputError, match=r"no spare CPU.*--capacity-wait SECONDS"):
        check_num_actors(dual(num_actors=8))


def test_actors_never_outnumber_the_jobs_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"num_actors is 2, but --mosek-tokens says 1.*--num-actors 1"):
        label_config(Path("x"), integration={"solver": "mosek"}, mosek_tokens=1, **ON_RAY)
    with pytest.raises(InputError, match="need mosek_tokens >= 1, got 0"):
        label_config(Path("x"), mosek_tokens=0, **ON_RAY)
    # Other solvers need none.
    assert label_config(Path("x"), mosek_tokens=1, **ON_RAY).pool.num_actors == 2
    Machines(monkeypatch, CPU=17)
    with actor_pool(PoolRequest(solver="mosek", mosek_tokens=3), work=1000) as num_actors:
        assert num_actors == 3
    with actor_pool(dual(mosek_tokens=3), work=1000) as num_actors:
        assert num_actors == 16


def test_more_actors_than_the_cluster_has_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Machines(monkeypatch, CPU=17, **{MOSEK_TOKEN: 4.0})
    with pytest.raises(InputError, match="num_actors is 5, but the cluster declares 4 MOSEK tokens"):
        check_num_actors(PoolRequest(solver="mosek", num_actors=5))
    check_num_actors(PoolRequest(solver="mosek", num_actors=4))
    check_num_actors(dual(num_actors=5))


def run_actor(output: ShardedDirectory, task: LabelTask) -> None:
    """What the pool does, in this process."""
    actor = ShardActor([Unit(output, task)], RETRYABLE_LABELS, Recorder(None))
    for shard in output.unfinished(RETRYABLE_LABELS):
        columns = {"unit": [0], "index": [shard.index], "start": [shard.start], "stop": [shard.stop]}
        actor({name: np.array(values) for name, values in columns.items()})


def test_labels_that_lost_the_license_are_finished_by_another_solver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 60
    ids, points = torch.arange(rows), torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))
    memory = NeighborMemory.build(tmp_path / "memory", None, [points], [points.sin()], [ids], [ids])
    mosek_license = install(monkeypatch, left=25)

    def run(solver: str) -> None:
        integration = IntegrationConfig(num_neighbors=5, solver=solver)
        output = ShardedDirectory.start(
            tmp_path / "labels",
            kind="labels",
            identity=to_jsonable(integration),
            rows=rows,
            rows_per_shard=20,
            may_differ=("solver",),
        )
        run_actor(output, LabelTask("digits", str(memory.directory), "torch", integration, dense=False))

    run("mosek")
    lost = read_labels(tmp_path / "labels")
    assert lost["status"].to_pylist().count(Status.INTERRUPTED.label) == rows - 25
    mosek_license.left = 33
    run("mosek")
    run("dual")
    found = read_labels(tmp_path / "labels")
    assert found["id"].to_pylist() == memory.ids.tolist()
    assert Status.INTERRUPTED.label not in found["status"].to_pylist()
    assert found["solver"].to_pylist().count("mosek") == mosek_license.solves == 33


# In a process of its own, because Ray joins one cluster a process, and tests share theirs.
_IN_A_PROCESS = """
import sys
sys.path.insert(0, "tests")
from engine.test_capacity import scaling_from_nothing
scaling_from_nothing()
"""


def wait_for_two() -> int:
    with actor_pool(dual(num_actors=2, wait=90), work=10) as num_actors:
        return num_actors


def scaling_from_nothing() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "resources": {MOSEK_TOKEN: 3}})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with pytest.raises(InputError, match="no spare CPU"):
            check_num_actors(dual(num_actors=2))
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(wait_for_two)
            time.sleep(6)
            assert not waiting.done()
            # Ray starts nodes in the main thread only.
            cluster.add_node(num_cpus=4)
            assert waiting.result(timeout=60) == 2
        share_tokens()
    finally:
        ray.shutdown()
        cluster.shutdown()


def share_tokens() -> None:
    """Two jobs of one cluster that declares three tokens: the second has what is left, then none, then all."""
    mosek = PoolRequest(solver="mosek")
    with actor_pool(replace(mosek, num_actors=2), work=10) as first:
        assert first == 2
        with actor_pool(mosek, work=10) as second:
            assert second == 1
            refused = pytest.raises(InputError, match="need 1 MOSEK tokens, but 0 of the cluster's 3 are free")
            with refused, actor_pool(mosek, work=10):
                pass
    with actor_pool(mosek, work=10) as third:
        assert third == 3


@pytest.mark.slow
def test_a_node_that_comes_late_is_waited_for_and_tokens_are_shared() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_PROCESS],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
