"""Drivers killed at random points, again and again on the same output: what is finished is kept."""

from pathlib import Path

import numpy as np
import pytest

from helpers.chaos_jobs import LABELS, Driver, Job, run_here, wait_for_shards, without_agents
from helpers.chaos_verdict import Verdict

# Of kills, those that fall into the start of a driver: imports, the cluster, the first actors.
_EARLY = 0.25
_START_SECONDS = 12.0
_SHARDS = 30
_SOAK = 20
# So many on one output, before it is finished and looked at.
_IN_A_ROW = 4


def kill_at_random(job: Job, storage: Path, generator: np.random.Generator, address: str | None) -> dict[int, str]:
    """A driver started and killed at a random point; the processes that it left. Shards that were there stay."""
    early, more = generator.random() < _EARLY, int(generator.integers(1, _SHARDS))
    delay = generator.uniform(0, _START_SECONDS)
    before = job.shards(storage)
    with Driver(job, storage, address) as driver:
        if not early:
            wait_for_shards(driver, more)
        driver.ends_within(delay if early else delay / 100)
        left = driver.kill()
    after = job.shards(storage)
    assert {path: after[path] for path in before} == before
    return left


def kill_in_a_row(
    job: Job, storage: Path, generator: np.random.Generator, times: int, address: str | None
) -> dict[int, str]:
    """So many drivers killed on one output, and another that is left alone."""
    left: dict[int, str] = {}
    for _ in range(times):
        left |= kill_at_random(job, storage, generator, address)
    kept = job.shards(storage)
    # In this process, which has imported everything already.
    assert run_here(job, storage, *(() if address is None else ("--address", address))) == 0
    now = job.shards(storage)
    assert {path: now[path] for path in kept} == kept
    return left


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_killed_three_times(storage: Path, verdict: Verdict) -> None:
    """Each with a cluster of its own, which does not outlive it, but for its agents."""
    left = kill_in_a_row(LABELS, storage, np.random.default_rng(1), 3, None)
    verdict("driver killed", LABELS, storage, times=3, processes=without_agents(left))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_killed_with_its_driver(job: Job, storage: Path, verdict: Verdict) -> None:
    with Driver(job, storage) as driver:
        wait_for_shards(driver, 3)
        assert not driver.ended
        left = driver.kill()
    assert job.shards(storage)
    with Driver(job, storage) as driver:
        assert driver.finish() == 0, driver.text()
    verdict("driver killed, cluster too", job, storage, processes=left)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(_SOAK // _IN_A_ROW))
def test_soak(job: Job, seed: int, storage: Path, head: str, verdict: Verdict) -> None:
    left = kill_in_a_row(job, storage, np.random.default_rng(seed), _IN_A_ROW, head)
    verdict("driver killed, soak", job, storage, times=_IN_A_ROW, processes=left)
