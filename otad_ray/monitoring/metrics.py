"""Every metric of the jobs, in one place: its name, labels and meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True)
class Metric:
    """A counter or a gauge. labels: only of few values, never a row, an id or an actor. unit: of its values."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    description: str

    @property
    def series(self) -> str:
        """Its name in Prometheus: Ray puts `ray_` before it and `_total` behind a counter."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


@dataclass(frozen=True)
class Amount:
    """What a counter grows by, or what a gauge becomes; labels by name."""

    metric: Metric
    labels: Mapping[str, str]
    value: float

    def __post_init__(self) -> None:
        if set(self.labels) != set(self.metric.labels):
            raise ValueError(f"{self.metric.name} has labels {self.metric.labels}, got {tuple(self.labels)}")


_WORK = ("kind", "preset")
_ATTACKED = ("preset", "defense", "attack", "norm", "eps")
_QUERIED = ("preset", "defense", "attack")
_JOB = ("job_name", "preset")

ROWS = Metric("otad_rows", "counter", "rows", (*_WORK, "status"), "Rows computed and written, by status.")
RELAXATIONS = Metric("otad_relaxations", "counter", "relaxations", _WORK, "Relaxations of (l, L), over all rows.")
STAGE_SECONDS = Metric(
    "otad_stage_seconds",
    "counter",
    "seconds",
    (*_WORK, "stage"),
    "Seconds that actors computed: search of neighbors, solve, model, and other (gradients, an attack's own work).",
)
QUERIES = Metric("otad_queries", "counter", "queries", _QUERIED, "Forward passes of samples that attacks asked for.")
GRADIENT_QUERIES = Metric(
    "otad_gradient_queries", "counter", "queries", _QUERIED, "Forward passes of samples with a gradient."
)
SAMPLES_ATTACKED = Metric(
    "otad_samples_attacked",
    "counter",
    "samples",
    _ATTACKED,
    "Samples attacked; not those spared by early stop, nor those on which an error was raised.",
)
SAMPLES_BROKEN = Metric(
    "otad_samples_broken", "counter", "samples", _ATTACKED, "Of the samples attacked, those not verified right after."
)
SAMPLES_CERTIFIED = Metric(
    "otad_samples_certified",
    "counter",
    "samples",
    ("preset", "defense"),
    "Samples answered right, with a certified radius above 0.",
)
JOB_ROWS = Metric("otad_job_rows", "gauge", "rows", _JOB, "Rows that the run has, or had, to compute.")
JOB_ROWS_DONE = Metric("otad_job_rows_done", "gauge", "rows", _JOB, "Of these, the rows that are through.")
JOB_RATE = Metric(
    "otad_job_rows_per_second", "gauge", "rows/s", _JOB, "Rows a second, from the run's first row to its latest."
)
JOB_RUNNING = Metric(
    "otad_job_running", "gauge", "", _JOB, "1 while the run computes rows, 0 after; stays 1 where its driver is killed."
)
JOB_PROGRESS = Metric(
    "otad_job_progress_timestamp_seconds",
    "gauge",
    "seconds",
    _JOB,
    "When the run last had a shard through (Unix time).",
)
NIGHT_REGRESSIONS = Metric(
    "otad_nightly_regressions", "gauge", "regressions", ("preset",), "Regressions that the last finished night found."
)
NIGHT_FINISHED = Metric(
    "otad_nightly_finished_timestamp_seconds", "gauge", "seconds", ("preset",), "When the last night finished."
)
NIGHT_GOOD = Metric(
    "otad_nightly_good_timestamp_seconds",
    "gauge",
    "seconds",
    ("preset",),
    "When the last night without a regression finished.",
)

METRICS = (
    ROWS,
    RELAXATIONS,
    STAGE_SECONDS,
    QUERIES,
    GRADIENT_QUERIES,
    SAMPLES_ATTACKED,
    SAMPLES_BROKEN,
    SAMPLES_CERTIFIED,
    JOB_ROWS,
    JOB_ROWS_DONE,
    JOB_RATE,
    JOB_RUNNING,
    JOB_PROGRESS,
    NIGHT_REGRESSIONS,
    NIGHT_FINISHED,
    NIGHT_GOOD,
)
