"""Joining or starting a cluster, and how many actors it can take."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from otad_ray.errors import InputError

logger = logging.getLogger(__name__)

# Logical CPUs that an actor pool leaves free: Ray Data's own tasks need one, and a pool that takes every CPU
# waits for it without a word.
_SPARE_CPUS = 1
_SETTLE_SECONDS = 5.0
_PROBE_SECONDS = 5.0


# That a local cluster asks for a token is as it should be.
logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Join the cluster at `address`, or at RAY_ADDRESS (set inside a submitted job), or start one on this machine.

    A session that is already open in this process is used and left open.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        try:
            _probe(address)
            ray.init(address=address, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster answers at {address!r} ({error}); start one, or leave out --address"
            ) from error
    else:
        # The spare CPU need not be a core of its own: as many actors as cores can work.
        cpus = num_cores() + _SPARE_CPUS
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    # Ray Data tells of every execution, and that its bars are off; the jobs say themselves what they do.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def check_num_actors(requested: int | None, address: str | None) -> None:
    """InputError, before any work, for a cluster that does not answer or cannot take so many actors."""
    if not ray.is_initialized() and not (address or os.environ.get("RAY_ADDRESS")):
        _check_spare(1 if requested is None else requested, num_cores())
        return
    with ray_session(address):
        choose_num_actors(requested, work=requested or 1)


def choose_num_actors(requested: int | None, *, work: int) -> int:
    """Actors to start for `work` independent pieces: at most `requested`, else one per spare CPU.

    Raises InputError for more than the cluster has spare CPUs: such a pool would wait for ever.
    """
    spare = _spare_cpus(wanted=requested or 1)
    _check_spare(1 if requested is None else requested, spare)
    return min(work, requested or spare)


def num_cores() -> int:
    """Cores this process may use, which containers make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _probe(address: str) -> None:
    """OSError within seconds where nobody listens: Ray itself would keep trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()


def _check_spare(num_actors: int, spare: int) -> None:
    if num_actors < 1:
        raise InputError(f"need num_actors >= 1, got {num_actors}")
    if spare < 1:
        raise InputError("the cluster has no spare CPU for an actor; wait for other jobs to end or add nodes")
    if num_actors > spare:
        raise InputError(
            f"num_actors is {num_actors}, but the cluster has {spare} spare CPUs besides the one that Ray Data needs: "
            f"the pool would wait for ever. Use --num-actors {spare} or add nodes"
        )


def _spare_cpus(wanted: int) -> int:
    """Free CPUs less those left for Ray; waits a little for CPUs that a job just ended is still giving back."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        spare = int(ray.available_resources().get("CPU", 0)) - _SPARE_CPUS
        total = int(ray.cluster_resources().get("CPU", 0)) - _SPARE_CPUS
        if spare >= min(wanted, total) or time.monotonic() > deadline:
            return spare
        time.sleep(0.2)
