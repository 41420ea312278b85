"""Metrics of running jobs, through Ray: counted when a shard is written, so that they agree with the manifests.

Pool actors and drivers end with their job, and Ray forgets a gauge that is not set again within twenty seconds: nobody
would ever learn of a killed driver. What a killed process counted last is lost with it. Therefore one actor of the
cluster, which takes no CPU and outlives jobs, owns all series, and everyone tells it. Only clusters that are joined
have it: of one that a job starts for itself there is nothing left to look at.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.metrics import Counter, Gauge

from otad_ray.monitoring.metrics import (
    JOB_PROGRESS,
    JOB_RATE,
    JOB_ROWS,
    JOB_ROWS_DONE,
    JOB_RUNNING,
    NIGHT_FINISHED,
    NIGHT_GOOD,
    NIGHT_REGRESSIONS,
    Amount,
    Metric,
)

logger = logging.getLogger(__name__)

NAMESPACE = "otad"
ACTOR = "metrics"
# A process waits this long for its metrics, once; it then only mentions them. Not less: on a head that is short of
# CPUs the actor may be starved for ten seconds, and what a pool actor has told and not seen taken ends with it.
_PATIENCE_SECONDS = 30.0
# Where a job stands is told no oftener than this.
_PROGRESS_SECONDS = 1.0
# Less than the shortest interval at which Ray reports.
_REFRESH_SECONDS = 0.5
# Ray gives this resource to the head, which is there as long as the cluster.
_ON_THE_HEAD = {"node:__internal_head__": 0.001}


class MetricsActor:
    """Owns the cluster's series.

    It knows no metric by itself, so that it serves jobs of later versions too: a second one beside it would leave the
    first one's gauges as they were last.
    """

    def __init__(self) -> None:
        self._metrics: dict[Metric, Counter | Gauge] = {}
        self._gauges: dict[tuple[Metric, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._keep_gauges, daemon=True).start()

    def record(self, amounts: Sequence[Amount]) -> None:
        """Let counters grow and set gauges."""
        with self._lock:
            for amount in amounts:
                metric = self._metric(amount.metric)
                if isinstance(metric, Counter):
                    metric.inc(amount.value, dict(amount.labels))
                else:
                    metric.set(amount.value, dict(amount.labels))
                    self._gauges[amount.metric, tuple(amount.labels.items())] = amount.value

    def _keep_gauges(self) -> None:
        """Set them again and again: Ray exports what was set since the last time, and forgets the rest."""
        while True:
            time.sleep(_REFRESH_SECONDS)
            with self._lock:
                for (definition, labels), value in self._gauges.items():
                    metric = self._metric(definition)
                    assert isinstance(metric, Gauge)
                    metric.set(value, dict(labels))

    def _metric(self, definition: Metric) -> Counter | Gauge:
        if definition not in self._metrics:
            make = Counter if definition.kind == "counter" else Gauge
            self._metrics[definition] = make(definition.name, definition.description, definition.labels)
        return self._metrics[definition]


class Recorder:
    """Tells the cluster's metrics actor, where there is one; what goes wrong there costs a job its metrics alone."""

    def __init__(self, actor: Any | None) -> None:
        self._actor = actor
        self._patient = True

    @classmethod
    def open(cls, address: str | None) -> "Recorder":
        """For the open session, which joined the cluster at `address` or RAY_ADDRESS; else it records nothing."""
        if not (address or os.environ.get("RAY_ADDRESS")):
            return cls(None)
        try:
            options = {"num_cpus": 0, "resources": _ON_THE_HEAD, "max_restarts": -1, "max_task_retries": 3}
            kept = {"name": ACTOR, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
            return cls(ray.remote(MetricsActor).options(**options, **kept).remote())
        except Exception as error:
            logger.warning("no metrics: %s: %s", type(error).__name__, error)
            return cls(None)

    def record(self, amounts: Iterable[Amount]) -> None:
        """Return when the amounts are counted, or when patience is over."""
        self._tell(list(amounts), wait=True)

    def mention(self, amounts: Iterable[Amount]) -> None:
        """Return at once."""
        self._tell(list(amounts), wait=False)

    def _tell(self, amounts: list[Amount], *, wait: bool) -> None:
        if self._actor is None:
            return
        try:
            told = self._actor.record.remote(amounts)
            if wait and self._patient:
                ray.get(told, timeout=_PATIENCE_SECONDS)
        except GetTimeoutError:
            # It will be told if it ever answers.
            logger.warning("metrics may be late or missing: nobody took them within %g s", _PATIENCE_SECONDS)
            self._patient = False
        except Exception as error:
            # Whatever it is, rows are worth more than their count.
            logger.warning("no metrics from here on: %s: %s", type(error).__name__, error)
            self._actor = None


class JobProgress:
    """Where a run stands, as a context: it runs until the end of the block, however that ends."""

    def __init__(self, recorder: Recorder, *, job_name: str, preset: str, rows: int) -> None:
        self._recorder = recorder
        self._labels = {"job_name": job_name, "preset": preset}
        self._rows = rows
        self._done, self._rate = 0, 0.0
        self._told = 0.0

    def __enter__(self) -> "JobProgress":
        self._recorder.mention([*self._amounts(), Amount(JOB_RUNNING, self._labels, 1)])
        return self

    def advance(self, done: int, rows_per_second: float) -> None:
        """done: rows through so far, rows_per_second: the average so far."""
        self._done, self._rate = done, rows_per_second
        if time.monotonic() - self._told > _PROGRESS_SECONDS:
            self._recorder.mention(self._amounts())

    def __exit__(self, *_: object) -> None:
        self._recorder.record([*self._amounts(), Amount(JOB_RUNNING, self._labels, 0)])

    def _amounts(self) -> list[Amount]:
        self._told = time.monotonic()
        values = {JOB_ROWS: self._rows, JOB_ROWS_DONE: self._done, JOB_RATE: self._rate, JOB_PROGRESS: time.time()}
        return [Amount(metric, self._labels, value) for metric, value in values.items()]


def record_night(address: str | None, regressions: dict[str, int], finished: float) -> None:
    """A finished night: regressions by preset, and when it finished (Unix time). Needs an open session."""
    amounts = []
    for preset, found in regressions.items():
        labels = {"preset": preset}
        amounts += [Amount(NIGHT_REGRESSIONS, labels, found), Amount(NIGHT_FINISHED, labels, finished)]
        if not found:
            amounts.append(Amount(NIGHT_GOOD, labels, finished))
    Recorder.open(address).record(amounts)
