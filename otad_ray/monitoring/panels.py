"""The panels of the dashboard: what each shows, and the PromQL expression that says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from otad_ray.cip import Status
from otad_ray.evaluation.records.schema import RecordStatus
from otad_ray.monitoring.metrics import (
    GRADIENT_QUERIES,
    JOB_RATE,
    JOB_ROWS,
    JOB_ROWS_DONE,
    JOB_RUNNING,
    NIGHT_GOOD,
    NIGHT_REGRESSIONS,
    QUERIES,
    RELAXATIONS,
    ROWS,
    SAMPLES_ATTACKED,
    SAMPLES_BROKEN,
    SAMPLES_CERTIFIED,
    STAGE_SECONDS,
    Metric,
)

# Chosen above the dashboard.
PRESETS = 'preset=~"$preset"'
# Rows without a result: that no potentials or no solution was found for, that were interrupted, or whose attack failed.
UNSOLVED_STATUSES = (
    Status.INFEASIBLE.label,
    Status.FAILED.label,
    Status.INTERRUPTED.label,
    RecordStatus.NAN_LOGITS.value,
    RecordStatus.UNSOLVED.value,
    RecordStatus.INVALID.value,
    RecordStatus.ATTACK_ERROR.value,
)
UNSOLVED = f'status=~"{"|".join(UNSOLVED_STATUSES)}"'
_WINDOW_MINUTES = 5


@dataclass(frozen=True)
class Panel:
    """One panel with one expression, which evaluates to one series for each value of its legend's labels.

    unit: as Grafana calls it. draw: stat, a number for now; timeseries, over time; bars, each share of a whole.
    """

    title: str
    expression: str
    description: str
    legend: str = ""
    unit: str = "short"
    draw: Literal["stat", "timeseries", "bars"] = "timeseries"


def total(metric: Metric, by: Sequence[str], *conditions: str) -> str:
    """The sum of a counter since the cluster's head started; the labels that Ray adds are summed away."""
    return f"sum by ({', '.join(by)}) ({_series(metric, conditions)})"


def gained(metric: Metric, by: Sequence[str], *conditions: str, minutes: int) -> str:
    """What a counter grew by in the last minutes.

    Not `increase`: that leaves out the value that a series is first seen with, here often that of a whole small job,
    and extrapolates. A head that starts anew begins at 0: no less than nothing is gained then.
    """
    now = total(metric, by, *conditions)
    before = f"sum by ({', '.join(by)}) ({_series(metric, conditions)} offset {minutes}m)"
    return f"clamp_min({now} - ({before} or 0 * {now}), 0)"


def latest(metric: Metric, by: Sequence[str], *conditions: str) -> str:
    """The value of a gauge, whoever reports it."""
    return f"max by ({', '.join(by)}) ({_series(metric, conditions)})"


def _series(metric: Metric, conditions: Sequence[str]) -> str:
    return f"{metric.series}{{{', '.join(conditions)}}}" if conditions else metric.series


_JOB = ("job_name", "preset")
_JOB_LEGEND = "{{job_name}} {{preset}}"
_ATTACK = ("defense", "attack")
_ATTACK_LEGEND = "{{defense}} {{attack}}"
_BUDGET = ("defense", "attack", "eps")

PANELS = (
    Panel(
        title="Rows done",
        expression=latest(JOB_ROWS_DONE, _JOB, PRESETS),
        description="Rows through in the latest run of each job.",
        legend=_JOB_LEGEND,
        draw="stat",
    ),
    Panel(
        title="Rows to do",
        expression=f"{latest(JOB_ROWS, _JOB, PRESETS)} - {latest(JOB_ROWS_DONE, _JOB, PRESETS)}",
        description="Rows that the latest run of each job still has to compute; of one that has ended, those it left.",
        legend=_JOB_LEGEND,
        draw="stat",
    ),
    Panel(
        title="Jobs running",
        expression=latest(JOB_RUNNING, _JOB, PRESETS),
        description="1: computes rows. It stays 1 where the driver was killed; the alert OtadJobStalled then fires.",
        legend=_JOB_LEGEND,
        draw="stat",
    ),
    Panel(
        title="Rows per second, average of the run",
        expression=latest(JOB_RATE, _JOB, PRESETS),
        description="From the run's first row to its latest, over all actors: what the manifest says in the end.",
        legend=_JOB_LEGEND,
        unit="rps",
        draw="stat",
    ),
    Panel(
        title="Alerts firing",
        expression='count by (alertname) (ALERTS{alertname=~"Otad.+", alertstate="firing"}) or on () vector(0)',
        description="By name; what to do on each is in docs/monitoring.md.",
        legend="{{alertname}}",
        draw="stat",
    ),
    Panel(
        title="Rows without a result",
        expression=f"{total(ROWS, ('kind',), PRESETS, UNSOLVED)} or 0 * {total(ROWS, ('kind',), PRESETS)}",
        description="Infeasible, failed, interrupted, or with an error: since the head started.",
        legend="{{kind}}",
        draw="stat",
    ),
    Panel(
        title=f"Rows per second, over {_WINDOW_MINUTES} minutes",
        expression=f"{gained(ROWS, ('kind',), PRESETS, minutes=_WINDOW_MINUTES)} / {60 * _WINDOW_MINUTES}",
        description="Rows written, over all actors and jobs; a shard counts when it is whole.",
        legend="{{kind}}",
        unit="rps",
    ),
    Panel(
        title="Rows by status",
        expression=total(ROWS, ("kind", "status"), PRESETS),
        description="Rows written since the head started.",
        legend="{{kind}} {{status}}",
    ),
    Panel(
        title="Share of rows by status",
        expression=(
            f"{total(ROWS, ('kind', 'status'), PRESETS)} / on (kind) group_left {total(ROWS, ('kind',), PRESETS)}"
        ),
        description="Of the rows of a kind, since the head started.",
        legend="{{kind}} {{status}}",
        unit="percentunit",
        draw="bars",
    ),
    Panel(
        title="Relaxations",
        expression=total(RELAXATIONS, ("kind",), PRESETS),
        description="How often (l, L) was relaxed, over all rows, since the head started.",
        legend="{{kind}}",
    ),
    Panel(
        title="Relaxations per row",
        expression=f"{total(RELAXATIONS, ('kind',), PRESETS)} / {total(ROWS, ('kind',), PRESETS)}",
        description="The mean over the rows since the head started.",
        legend="{{kind}}",
    ),
    Panel(
        title="Seconds by stage",
        expression=total(STAGE_SECONDS, ("kind", "stage"), PRESETS),
        description="Seconds that actors computed since the head started. Writing and waiting are not in it.",
        legend="{{kind}} {{stage}}",
        unit="s",
    ),
    Panel(
        title="Share of time by stage",
        expression=(
            f"{total(STAGE_SECONDS, ('kind', 'stage'), PRESETS)}"
            f" / on (kind) group_left {total(STAGE_SECONDS, ('kind',), PRESETS)}"
        ),
        description="Of the actors' time for a kind of rows, since the head started.",
        legend="{{kind}} {{stage}}",
        unit="percentunit",
        draw="bars",
    ),
    Panel(
        title=f"Queries per second, over {_WINDOW_MINUTES} minutes",
        expression=f"{gained(QUERIES, _ATTACK, PRESETS, minutes=_WINDOW_MINUTES)} / {60 * _WINDOW_MINUTES}",
        description="Forward passes of samples that attacks asked for, over all actors; counted with their records.",
        legend=_ATTACK_LEGEND,
        unit="reqps",
    ),
    Panel(
        title="Queries",
        expression=total(QUERIES, _ATTACK, PRESETS),
        description="Forward passes of samples since the head started.",
        legend=_ATTACK_LEGEND,
    ),
    Panel(
        title="Gradient queries",
        expression=total(GRADIENT_QUERIES, _ATTACK, PRESETS),
        description="Forward passes of samples with a gradient since the head started.",
        legend=_ATTACK_LEGEND,
    ),
    Panel(
        title="Samples attacked",
        expression=total(SAMPLES_ATTACKED, _ATTACK, PRESETS),
        description="Over all eps, since the head started; a sample counts once for each attack and eps.",
        legend=_ATTACK_LEGEND,
    ),
    Panel(
        title="Samples broken",
        expression=total(SAMPLES_BROKEN, _ATTACK, PRESETS),
        description="Of the samples attacked, those not verified right after. Samples misclassified anyhow are in it.",
        legend=_ATTACK_LEGEND,
    ),
    Panel(
        title="Share of samples broken",
        expression=(
            f"({total(SAMPLES_BROKEN, _BUDGET, PRESETS)} or 0 * {total(SAMPLES_ATTACKED, _BUDGET, PRESETS)})"
            f" / {total(SAMPLES_ATTACKED, _BUDGET, PRESETS)}"
        ),
        description="Of the samples attacked, by attack and eps. The worst case over attacks is in the sweep's report.",
        legend="{{defense}} {{attack}} eps {{eps}}",
        unit="percentunit",
        draw="bars",
    ),
    Panel(
        title="Samples certified",
        expression=total(SAMPLES_CERTIFIED, ("defense",), PRESETS),
        description="Answered right, with a certified radius above 0, since the head started.",
        legend="{{defense}}",
    ),
    Panel(
        title="Regressions of the last night",
        expression=latest(NIGHT_REGRESSIONS, ("preset",), PRESETS),
        description="Their names are in the log of the night's job and in MLflow (experiment nightly).",
        legend="{{preset}}",
        draw="stat",
    ),
    Panel(
        title="Age of the last good night",
        expression=f"time() - {latest(NIGHT_GOOD, ('preset',), PRESETS)}",
        description="Since the last night without a regression finished, as far as this head has seen one.",
        legend="{{preset}}",
        unit="s",
        draw="stat",
    ),
)
