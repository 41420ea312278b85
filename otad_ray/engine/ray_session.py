"""Joining or starting a cluster, and how many actors or training workers it can take."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import torch

from otad_ray.errors import InputError
from otad_ray.machine import num_cores

logger = logging.getLogger(__name__)

# Logical CPUs that actors and training workers leave free: Ray Data's own tasks need one, and a pool that takes every
# CPU waits for it without a word.
SPARE_CPUS = 1
_SETTLE_SECONDS = 5.0
_PROBE_SECONDS = 5.0
# Ray's sockets lie up to 64 characters below its folder, and the path of a socket has at most 107.
_LONGEST_FOLDER = 43
_SHORT_FOLDER = "/tmp/ray"

# A local cluster asks for a token, as it should; Ray need not announce it.
logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


@contextmanager
def ray_session(address: str | None = None, *, dashboard: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or at RAY_ADDRESS (set inside a submitted job), or start one on this machine.

    A session that is already open in this process is used and left open.

    Args:
        address: of a cluster.
        dashboard: start one with a cluster of our own; Ray Train asks it about its actors, and complains every second
            where there is none.

    Raises:
        InputError: if no cluster answers, or the address is a job server's.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _refuse_job_server(address)
        try:
            _probe(address)
            ray.init(address=address, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster answers at {address!r} ({error}); start one, or leave out --address"
            ) from error
    else:
        # The spare CPU need not be a core of its own: as many actors as cores can work.
        cpus = num_cores() + SPARE_CPUS
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=dashboard,
            logging_level=logging.WARNING,
            _temp_dir=_choose_folder(),
        )
    quiet_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def quiet_ray_data() -> None:
    """Silence Ray Data's logs: it announces every execution, and prints long tracebacks for errors that it raises."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    for said_twice in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(said_twice).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class WorkerResources:
    """What each training worker gets: whole CPUs, and a GPU or none."""

    num_cpus: int
    use_gpu: bool

    def __str__(self) -> str:
        return "1 GPU" if self.use_gpu else f"{self.num_cpus} CPU{'s' * (self.num_cpus > 1)}"


def check_num_workers(requested: int, address: str | None, *, use_gpu: bool | None = None, waits: bool = False) -> None:
    """Refuse, before any work, a cluster that does not answer or cannot take so many training workers.

    use_gpu: as of `worker_resources`. waits: a cluster that has no room yet may get it.
    """
    if starts_locally(address):
        gpus = 0 if use_gpu is False else torch.cuda.device_count()
        _check_workers(requested, cpus=num_cores(), gpus=gpus if gpus or use_gpu else None)
        return
    with ray_session(address):
        if not waits:
            worker_resources(requested, use_gpu=use_gpu)


def worker_resources(num_workers: int, *, use_gpu: bool | None = None) -> WorkerResources:
    """Return what each worker gets: a GPU or none, and an equal share of the open cluster's spare CPUs.

    Args:
        num_workers: how many workers share them.
        use_gpu: whether each gets a GPU; None for GPUs if the cluster has any.

    Raises:
        InputError: for more workers than the cluster has spare CPUs or, if they are used, GPUs.
    """
    spare = _spare_cpus(wanted=num_workers)
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    _check_workers(num_workers, cpus=spare, gpus=int(ray.available_resources().get("GPU", 0)) if use_gpu else None)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = spare // num_workers
    # A worker's CPUs and GPU are on one node: shares that do not fit beside each other would be waited for, for ever.
    while (places := sum(_places(node, share, use_gpu=use_gpu) for node in nodes)) < num_workers:
        share -= 1
        if share < 1:
            raise InputError(
                f"num_workers is {num_workers}, but the cluster's nodes have room for {places}, each with a CPU"
                f"{' and a GPU' if use_gpu else ''}. Use --num-workers {places} or add nodes"
            )
    return WorkerResources(share, use_gpu=use_gpu)


def choose_num_actors(requested: int | None, *, work: int) -> int:
    """Return the actors to start for `work` independent pieces: at most `requested`, else one per spare CPU.

    Raises:
        InputError: for more actors than the cluster has spare CPUs; such a pool would wait for ever.
    """
    spare = _spare_cpus(wanted=requested or 1)
    check_spare("num_actors", 1 if requested is None else requested, spare)
    return min(work, requested or spare)


def starts_locally(address: str | None) -> bool:
    """Return whether a session at `address` would start a cluster on this machine."""
    return not ray.is_initialized() and not (address or os.environ.get("RAY_ADDRESS"))


def _refuse_job_server(address: str) -> None:
    """Raise InputError for an address that jobs are submitted to, and that no driver can join."""
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"{address!r} (--address or RAY_ADDRESS) is the address of a job server; submit the job to it with "
            f"ray job submit --address {address}, or give the address of the cluster itself, such as HOST:6379"
        )


def _choose_folder() -> str | None:
    """Return a folder for Ray's files if the paths of sockets would be too long in its own choice; None otherwise."""
    parent = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or ""
    return _SHORT_FOLDER if len(os.path.join(parent, "ray")) > _LONGEST_FOLDER else None


def _probe(address: str) -> None:
    """Raise OSError within seconds if nobody listens: Ray itself would keep trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()


def _places(node: dict[str, float], share: int, *, use_gpu: bool) -> int:
    """Return how many workers with so many CPUs fit on a node."""
    places = int(node.get("CPU", 0)) // share
    return min(places, int(node.get("GPU", 0))) if use_gpu else places


def _check_workers(requested: int, *, cpus: int, gpus: int | None) -> None:
    """Refuse more workers than there are CPUs, or free GPUs; gpus is None if none are used."""
    check_spare("num_workers", requested, cpus)
    if gpus is not None and gpus < requested:
        raise InputError(
            f"num_workers is {requested}, but the cluster has {gpus} free GPUs, one for each worker. "
            f"Use fewer --num-workers, wait for other jobs to end, or add nodes"
        )


def check_spare(field: str, requested: int, spare: int) -> None:
    """Refuse fewer than one, and more actors or workers (the option `field`) than there are spare CPUs."""
    if requested < 1:
        raise InputError(f"need {field} >= 1, got {requested}")
    if spare < 1:
        raise InputError(
            "the cluster has no spare CPU; wait for other jobs to end or add nodes, or let this job wait for them "
            "with --capacity-wait SECONDS"
        )
    if requested > spare:
        raise InputError(
            f"{field} is {requested}, but the cluster has {spare} spare CPUs besides the one that Ray Data needs: "
            f"the job would wait for ever. Use --{field.replace('_', '-')} {spare} or add nodes"
        )


def _spare_cpus(wanted: int) -> int:
    """Return the free CPUs less those left for Ray, after a short wait for a job that is still giving some back."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        spare = int(ray.available_resources().get("CPU", 0)) - SPARE_CPUS
        total = int(ray.cluster_resources().get("CPU", 0)) - SPARE_CPUS
        if spare >= min(wanted, total) or time.monotonic() > deadline:
            return spare
        time.sleep(0.2)
