"""Options that every job takes: what to compute, and where and with what to run it. Plain data, without Ray."""

import os
from dataclasses import dataclass
from math import isfinite
from typing import Annotated

from tyro.conf import arg

from otad_ray.cip import MOSEK
from otad_ray.errors import InputError
from otad_ray.memory import DEFAULT_SEARCH, name_search
from otad_ray.presets import Preset

CAPACITY_WAIT = "OTAD_CAPACITY_WAIT"


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """The workers that compute shards: a pool of Ray actors, or this process.

    Attributes:
        num_actors: actors of the pool; None for one per spare CPU.
        address: Ray cluster to join; None for RAY_ADDRESS, else a cluster of our own.
        wait: seconds to wait for CPUs and license tokens.
        solver: the solver that the actors use.
        mosek_tokens: the most actors if that solver is MOSEK; None for no limit of the job's own.
        local: compute in this process, without Ray.
    """

    num_actors: int | None = None
    address: str | None = None
    wait: float = 0.0
    solver: str = "dual"
    mosek_tokens: int | None = None
    local: bool = False

    def __post_init__(self) -> None:
        if self.mosek_tokens is not None and self.mosek_tokens < 1:
            raise InputError(f"need mosek_tokens >= 1, got {self.mosek_tokens}")
        if self.solver == MOSEK:
            check_tokens(self.num_actors, self.mosek_tokens, "--mosek-tokens says")


@dataclass(frozen=True, kw_only=True)
class WorkerRequest:
    """The workers that share the training of a network: Ray Train's, or this process.

    Attributes:
        num_workers: processes that share every batch.
        address: Ray cluster to join; None for RAY_ADDRESS, else a cluster of our own.
        wait: seconds to wait for CPUs and GPUs.
        use_gpu: a GPU for each worker, or none; None for GPUs where the cluster has some.
        local: train in this process, without Ray.
    """

    num_workers: int = 1
    address: str | None = None
    wait: float = 0.0
    use_gpu: bool | None = None
    local: bool = False


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What to compute, and where to put it.

    Attributes:
        preset: what is computed; the other fields do not change results.
        storage: root of everything the job makes (default: OTAD_STORAGE, else ~/otad_ray).
        tracking_uri: MLflow (default: MLFLOW_TRACKING_URI, else SQLite in the storage root).
        build: make a missing input; --no-build says instead which command makes it.
    """

    preset: Annotated[Preset, arg(name="")]
    storage: str | None = None
    tracking_uri: str | None = None
    build: bool = True

    @property
    def pool(self) -> PoolRequest:
        """The workers for shards that the job needs on the way."""
        return PoolRequest(solver=self.preset.integration.solver)


@dataclass(frozen=True, kw_only=True)
class TrainJobConfig(JobConfig):
    """What to train, and on which workers.

    Attributes:
        num_workers: processes that share every batch, each on a GPU where the cluster has some; the result is the same.
        address: Ray cluster to join (default: RAY_ADDRESS, else a local one is started).
        checkpoint_every: epochs between the checkpoints that an interrupted training goes on from.
        use_gpu: a GPU for each worker, or none (default: where the cluster has some when the job starts).
        capacity_wait: seconds to wait for the workers' CPUs and GPUs, for which a cluster that scales is asked
            (default: OTAD_CAPACITY_WAIT, else 0: a cluster without room is refused at once).
        local: train in this process, without Ray: for a debugger, and on a machine without Ray.
    """

    num_workers: int = 1
    address: str | None = None
    checkpoint_every: int = 1
    use_gpu: bool | None = None
    capacity_wait: float | None = None
    local: bool = False

    @property
    def workers(self) -> WorkerRequest:
        """The workers that the job asks for."""
        return WorkerRequest(
            num_workers=self.num_workers,
            address=self.address,
            wait=resolve_capacity_wait(self.capacity_wait),
            use_gpu=self.use_gpu,
            local=self.local,
        )

    @property
    def pool(self) -> PoolRequest:
        """The workers for shards that the job needs on the way."""
        return PoolRequest(
            address=self.address,
            wait=resolve_capacity_wait(self.capacity_wait),
            solver=self.preset.integration.solver,
            local=self.local,
        )

    def __post_init__(self) -> None:
        _ = self.pool
        for name in ("num_workers", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"need {name} >= 1, got {getattr(self, name)}")
        refuse_cluster_options(
            self.local,
            address=self.address,
            num_workers=None if self.num_workers == 1 else self.num_workers,
            use_gpu=self.use_gpu,
            capacity_wait=self.capacity_wait,
        )


@dataclass(frozen=True, kw_only=True)
class ActorJobConfig(JobConfig):
    """What to compute, and on which actors.

    Attributes:
        num_actors: size of the actor pool (default: one per spare CPU of the cluster).
        search: torch or faiss; both return the same neighbors, unless they may be approximate.
        faiss_index: FAISS's factory string of the index that --search faiss uses, such as Flat (the default),
            PCA784,FlatL2Panorama16, IVF1024,Flat or HNSW32; it is built once, beside the memory's keys.
        approximate: take the neighbors that an approximate index finds as they are; results say so, with the recall
            that was measured, and nothing is certified.
        address: Ray cluster to join (default: RAY_ADDRESS, else a local one is started).
        rows_per_shard: rows computed and written at a time; a directory keeps the value it was started with.
        capacity_wait: seconds to wait for the actors' CPUs, for which a cluster that scales is asked, and for license
            tokens (default: OTAD_CAPACITY_WAIT, else 0: a cluster without room is refused at once).
        mosek_tokens: license tokens that this job may use: with --solver mosek it never has more actors than that.
        local: compute in this process, without Ray: the same results, for a debugger, and on a machine without Ray.
    """

    num_actors: int | None = None
    search: str = DEFAULT_SEARCH
    faiss_index: str | None = None
    approximate: bool = False
    address: str | None = None
    rows_per_shard: int = 512
    capacity_wait: float | None = None
    mosek_tokens: int | None = None
    local: bool = False

    @property
    def search_name(self) -> str:
        """How memories are searched, as one name; InputError for options that do not go together."""
        return name_search(self.search, self.faiss_index, approximate=self.approximate)

    @property
    def pool(self) -> PoolRequest:
        """The workers that the job asks for; InputError for more actors than it has license tokens."""
        return PoolRequest(
            num_actors=self.num_actors,
            address=self.address,
            wait=resolve_capacity_wait(self.capacity_wait),
            solver=self.preset.integration.solver,
            mosek_tokens=self.mosek_tokens,
            local=self.local,
        )

    def __post_init__(self) -> None:
        _ = self.search_name
        if self.rows_per_shard < 1:
            raise InputError(f"need rows_per_shard >= 1, got {self.rows_per_shard}")
        refuse_cluster_options(
            self.local,
            address=self.address,
            num_actors=self.num_actors,
            capacity_wait=self.capacity_wait,
            mosek_tokens=self.mosek_tokens,
        )
        _ = self.pool


def resolve_capacity_wait(given: float | None) -> float:
    """Return the seconds to wait for CPUs and tokens: `given`, else `OTAD_CAPACITY_WAIT`, else 0.

    Raises:
        InputError: for what is no number of seconds.
    """
    named = os.environ.get(CAPACITY_WAIT)
    try:
        seconds = float(named or 0) if given is None else given
    except ValueError:
        raise InputError(f"{CAPACITY_WAIT} must be a number of seconds, got {named!r}") from None
    if not (isfinite(seconds) and seconds >= 0):
        raise InputError(f"need capacity_wait >= 0 seconds, got {seconds:g}")
    return seconds


def check_tokens(num_actors: int | None, tokens: int | None, who: str) -> None:
    """Refuse more actors than there are MOSEK tokens; `who` counted the tokens."""
    if num_actors is not None and tokens is not None and num_actors > tokens:
        raise InputError(
            f"num_actors is {num_actors}, but {who} {tokens} MOSEK tokens, one for each actor. "
            f"Use --num-actors {tokens}, or leave it out"
        )


def refuse_cluster_options(local: bool, **given: object) -> None:
    """Refuse, beside `local`, options that only mean something on a cluster; None means not given."""
    named = [f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None]
    if local and named:
        raise InputError(
            f"--local computes in this process, where {', '.join(named)} means nothing; "
            "leave out --local, or these options"
        )
