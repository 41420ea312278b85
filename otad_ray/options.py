"""Options that every job takes: what to compute, and where and with what to run it."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from otad_ray.engine.capacity import PoolRequest, capacity_wait
from otad_ray.errors import InputError
from otad_ray.memory import check_search
from otad_ray.presets import Preset


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


@dataclass(frozen=True, kw_only=True)
class TrainJobConfig(JobConfig):
    """What to train, and on which workers.

    Attributes:
        num_workers: processes that share every batch, each on a GPU where the cluster has some; the result is the same.
        address: Ray cluster to join (default: RAY_ADDRESS, else a local one is started).
        checkpoint_every: epochs between the states that an interrupted training goes on from.
        use_gpu: a GPU for each worker, or none (default: where the cluster has some when the job starts).
        capacity_wait: seconds to wait for the workers' CPUs and GPUs, for which a cluster that scales is asked
            (default: OTAD_CAPACITY_WAIT, else 0: a cluster without room is refused at once).
    """

    num_workers: int = 1
    address: str | None = None
    checkpoint_every: int = 1
    use_gpu: bool | None = None
    capacity_wait: float | None = None

    def __post_init__(self) -> None:
        capacity_wait(self.capacity_wait)
        for name in ("num_workers", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"need {name} >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ActorJobConfig(JobConfig):
    """What to compute, and on which actors.

    Attributes:
        num_actors: size of the actor pool (default: one per spare CPU of the cluster).
        search: torch or faiss; both return the same neighbors.
        address: Ray cluster to join (default: RAY_ADDRESS, else a local one is started).
        rows_per_shard: rows computed and written at a time; a directory keeps the value it was started with.
        capacity_wait: seconds to wait for the actors' CPUs, for which a cluster that scales is asked, and for license
            tokens (default: OTAD_CAPACITY_WAIT, else 0: a cluster without room is refused at once).
        mosek_tokens: license tokens that this job may use: with --solver mosek it never has more actors than that.
    """

    num_actors: int | None = None
    search: str = "torch"
    address: str | None = None
    rows_per_shard: int = 512
    capacity_wait: float | None = None
    mosek_tokens: int | None = None

    @property
    def pool(self) -> PoolRequest:
        """The actors that the job asks for; InputError for more than it has license tokens."""
        return PoolRequest(
            num_actors=self.num_actors,
            wait=capacity_wait(self.capacity_wait),
            solver=self.preset.integration.solver,
            mosek_tokens=self.mosek_tokens,
        )

    def __post_init__(self) -> None:
        check_search(self.search)
        if self.rows_per_shard < 1:
            raise InputError(f"need rows_per_shard >= 1, got {self.rows_per_shard}")
        _ = self.pool
