"""Actors and nodes killed under a job that goes on, or says why it cannot; and two jobs on one output."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from helpers.chaos_jobs import LOOPBACK, Driver, Job, actors_below, leave_temporary, wait_for_shards
from helpers.chaos_verdict import Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_an_actor_killed(job: Job, storage: Path, head: str, verdict: Verdict) -> None:
    with Driver(job, storage, head) as driver:
        wait_for_shards(driver, 3)
        kept = job.shards(storage)
        actor = actors_below(os.getpid())[0]
        leave_temporary(list(kept)[-1], actor)
        os.kill(actor, signal.SIGKILL)
        assert driver.finish() == 0, driver.text()
    now = job.shards(storage)
    assert {path: now[path] for path in kept} == kept
    verdict("actor killed", job, storage)


def test_actors_that_keep_dying_end_the_job(job: Job, storage: Path, head: str, verdict: Verdict) -> None:
    deaths = 0
    with Driver(job, storage, head) as driver:
        wait_for_shards(driver, 1)
        deadline = time.monotonic() + 240
        while not driver.ended:
            assert time.monotonic() < deadline, driver.text()
            for actor in actors_below(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(actor, signal.SIGKILL)
                    deaths += 1
            driver.ends_within(0.2)
        text = driver.text()
        assert driver.finish() == 1, text
    assert "Traceback" not in text
    assert "actors died again after 3 restarts" in text.splitlines()[-1]
    assert "run the same command again" in text.splitlines()[-1]
    with Driver(job, storage, head) as driver:
        assert driver.finish() == 0, driver.text()
    verdict("actors that keep dying", job, storage, times=deaths)


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head that has room for Ray's own work alone, and two nodes of workers."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "node_ip_address": LOOPBACK, "include_dashboard": False},
    )
    # Addresses of their own: a driver joins at the node that has its own one, else at the head.
    for address in ("127.0.0.3", "127.0.0.4"):
        cluster.add_node(num_cpus=2, node_ip_address=address)
    yield cluster
    cluster.shutdown()


def test_a_worker_node_killed(job: Job, storage: Path, nodes: Cluster, verdict: Verdict) -> None:
    with Driver(job, storage, nodes.address) as driver:
        wait_for_shards(driver, 3)
        node = next(node for node in nodes.worker_nodes if actors_of(node))
        killed = actors_of(node)
        nodes.remove_node(node, allow_graceful=False)
        assert driver.finish() == 0, driver.text()
    assert killed
    verdict("worker node killed", job, storage)


def actors_of(node) -> list[int]:
    raylet = node.all_processes["raylet"][0].process.pid
    return actors_below(raylet)


def test_two_drivers_at_once(job: Job, storage: Path, head: str, verdict: Verdict) -> None:
    with Driver(job, storage, head) as first, Driver(job, storage, head) as second:
        for driver in (first, second):
            assert driver.finish() == 0, driver.text()
    verdict("two drivers at once", job, storage)
