"""How many actors a job may start: room, which an autoscaler may have to make, and MOSEK license tokens."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from otad_ray.cip import MOSEK
from otad_ray.engine.ray_session import (
    SPARE_CPUS,
    check_spare,
    choose_num_actors,
    ray_session,
    starts_locally,
)
from otad_ray.errors import InputError
from otad_ray.machine import num_cores
from otad_ray.options import PoolRequest, check_tokens

logger = logging.getLogger(__name__)

# The custom resource by which a cluster says how many tokens its jobs share.
MOSEK_TOKEN = "mosek_token"
_POLL_SECONDS = 1.0
_REPORT_SECONDS = 30.0
# A request to the autoscaler replaces that of any other job, so that it is made again while a job waits.
_REQUEST_SECONDS = 10.0
# Tokens that a job just ended is giving back are there within this time.
_LEASE_SECONDS = 5.0


def check_num_actors(pool: PoolRequest) -> None:
    """Refuse, before any work, a cluster that does not answer or cannot take so many actors."""
    wanted = 1 if pool.num_actors is None else pool.num_actors
    if starts_locally(pool.address):
        check_spare("num_actors", wanted, num_cores())
        return
    with ray_session(pool.address):
        check_tokens(pool.num_actors, _declared_tokens(pool), "the cluster declares")
        if pool.wait:
            check_spare("num_actors", wanted, wanted)
        else:
            choose_num_actors(pool.num_actors, work=wanted)


@contextmanager
def actor_pool(pool: PoolRequest, *, work: int) -> Iterator[int]:
    """Wait for CPUs and tokens in the open session, and return the number of actors to start for `work` pieces.

    The wait is as long as the request says. Tokens that the cluster declares are this job's until the block, or the
    process, ends.

    Raises:
        InputError: if CPUs or tokens do not come.
    """
    limits = [limit for limit in (pool.mosek_tokens, _declared_tokens(pool)) if limit and pool.solver == MOSEK]
    work = min([work, *limits])
    requested = pool.num_actors
    if pool.wait:
        requested = requested and min(requested, work)
        wait_for_room(requested or 1, seconds=pool.wait)
    num_actors = choose_num_actors(requested, work=work)
    if _declared_tokens(pool) is None:
        yield num_actors
        return
    # A pool that was not asked for by its size makes do with the tokens that are free.
    least = 1 if pool.num_actors is None else num_actors
    lease, leased = _lease_tokens(least, num_actors, max(pool.wait, _LEASE_SECONDS))
    try:
        yield leased
    finally:
        ray.kill(lease)


def wait_for_room(count: int, *, use_gpu: bool = False, seconds: float) -> None:
    """Ask the autoscaler, if there is one, for `count` free CPUs (each with a GPU) beside the one that Ray needs.

    Returns as soon as they are there, or after `seconds`.
    """
    wanted = {"CPU": count + SPARE_CPUS, **({"GPU": count} if use_gpu else {})}
    counted, bundle = ("GPU", {"CPU": 1, "GPU": 1}) if use_gpu else ("CPU", {"CPU": 1})
    if _is_free(wanted):
        return
    started = time.monotonic()
    asked = reported = -float("inf")
    logger.info("waiting up to %.0f s for %s on the cluster", seconds, _name_resources(wanted))
    try:
        while not _is_free(wanted) and (waited := time.monotonic() - started) < seconds:
            if waited - asked >= _REQUEST_SECONDS:
                asked = waited
                # It counts what is in use already.
                in_use = ray.cluster_resources().get(counted, 0) - ray.available_resources().get(counted, 0)
                request_resources(bundles=[bundle] * (int(in_use) + wanted[counted]))
            if waited - reported >= _REPORT_SECONDS:
                reported = waited
                free = {name: int(ray.available_resources().get(name, 0)) for name in wanted}
                logger.info("%.0f s: %s free, waiting for %s", waited, _name_resources(free), _name_resources(wanted))
            time.sleep(_POLL_SECONDS)
    finally:
        # What has come is held by the actors from now on; a request that stays would hold it when they are gone.
        request_resources(bundles=[])


def _is_free(wanted: dict[str, int]) -> bool:
    """Return whether the cluster has so much of every resource free."""
    free = ray.available_resources()
    return all(free.get(name, 0) >= count for name, count in wanted.items())


def _name_resources(resources: dict[str, int]) -> str:
    """Return resources in words, such as "2 CPUs and 1 GPU"."""
    return " and ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in resources.items())


def _declared_tokens(pool: PoolRequest) -> int | None:
    """Return the tokens that the jobs on the open cluster share; None if it declares none, or none is needed."""
    declared = ray.cluster_resources().get(MOSEK_TOKEN) if pool.solver == MOSEK else None
    return None if declared is None else int(declared)


class _TokenLease:
    """Holds tokens by being alive; it ends with the driver that owns it, however that ends."""

    def ready(self) -> bool:
        return True


def _lease_tokens(least: int, most: int, seconds: float) -> tuple[Any, int]:
    """Take as many of the cluster's tokens as are free, `least` to `most`; InputError if they stay taken.

    Actors cannot ask for a token each beside their CPU: tokens are declared on the head, which has no CPUs, so that no
    actor would ever find a place.
    """
    deadline = time.monotonic() + seconds
    while True:
        free = int(ray.available_resources().get(MOSEK_TOKEN, 0))
        if free >= least:
            count = min(free, most)
            lease: Any = ray.remote(num_cpus=0)(_TokenLease).options(resources={MOSEK_TOKEN: count}).remote()
            try:
                # Another job may have taken them in between.
                ray.get(lease.ready.remote(), timeout=_LEASE_SECONDS)
            except ray.exceptions.GetTimeoutError:
                ray.kill(lease)
            else:
                return lease, count
        if time.monotonic() > deadline:
            raise InputError(
                f"need {least} MOSEK tokens, but {free} of the cluster's "
                f"{ray.cluster_resources().get(MOSEK_TOKEN, 0):.0f} are free: other jobs have the rest. Wait for them "
                "to end, give fewer --num-actors, or let this job wait with --capacity-wait SECONDS"
            )
        time.sleep(_POLL_SECONDS)
