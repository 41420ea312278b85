"""Prometheus alert rules: when a person should look, and what to do then."""

import json
from dataclasses import dataclass

from otad_ray.monitoring.metrics import (
    JOB_PROGRESS,
    JOB_ROWS,
    JOB_ROWS_DONE,
    JOB_RUNNING,
    NIGHT_GOOD,
    NIGHT_REGRESSIONS,
    ROWS,
)
from otad_ray.monitoring.panels import UNSOLVED, gained, latest

_RUNBOOK = "docs/monitoring.md"
_JOB = ("job_name", "preset")
_STALLED_MINUTES = 30
_SHARE_MINUTES = 60
_SHARE = 0.05
_NIGHT_HOURS = 26
# How long a night is remembered after the head that saw it is gone.
_REMEMBERED = "14d"


@dataclass(frozen=True)
class Alert:
    """A rule: it fires when its expression has had a value for so many minutes. action: what to do, in a sentence."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str
    action: str


ALERTS = (
    Alert(
        name="OtadJobStalled",
        expression=(
            f"{latest(JOB_RUNNING, _JOB)} == 1"
            f" and {latest(JOB_ROWS, _JOB)} > {latest(JOB_ROWS_DONE, _JOB)}"
            f" and time() - {latest(JOB_PROGRESS, _JOB)} > {60 * _STALLED_MINUTES}"
        ),
        minutes=1,
        severity="critical",
        summary=f"{{{{ $labels.job_name }}}} {{{{ $labels.preset }}}}: no shard through in {_STALLED_MINUTES} minutes",
        action=(
            "See with `ray job list` and `ray status` whether the driver lives and its actors have their CPUs. A job "
            "that was killed: run the same command again, which goes on from there and ends the alert. One that is "
            "slow: fewer `--rows-per-shard`."
        ),
    ),
    Alert(
        name="OtadRowsWithoutResult",
        expression=(
            f"{gained(ROWS, ('kind', 'preset'), UNSOLVED, minutes=_SHARE_MINUTES)}"
            f" / {gained(ROWS, ('kind', 'preset'), minutes=_SHARE_MINUTES)} > {_SHARE}"
        ),
        minutes=5,
        severity="warning",
        summary=(
            "{{ $labels.kind }} {{ $labels.preset }}: {{ $value | humanizePercentage }} of the last hour's rows have "
            "no result"
        ),
        action=(
            "Look at the panel *Rows by status*. `interrupted`: the solver's license or time; run the job again. "
            "`infeasible`: raise `max_relaxations` or L, or look for repeated rows with other features. `failed`: "
            "inputs that are not finite, or the solver's tolerance. `attack_error`: the record's column `error` says "
            "what was raised."
        ),
    ),
    Alert(
        name="OtadNightlyRegression",
        expression=f"{latest(NIGHT_REGRESSIONS, ('preset',))} > 0",
        minutes=0,
        severity="critical",
        summary="{{ $labels.preset }}: the last night found {{ $value }} regressions",
        action=(
            "The log of the night's job names them (`REGRESSION ...`), as does its last line. A change that was meant: "
            "run a night with `--accept`. It ends with the next good night."
        ),
    ),
    Alert(
        name="OtadNightlyMissing",
        expression=(
            f"time() - max by (preset) (last_over_time({NIGHT_GOOD.series}[{_REMEMBERED}])) > {3600 * _NIGHT_HOURS}"
        ),
        minutes=10,
        severity="warning",
        summary=f"{{{{ $labels.preset }}}}: no good night for {_NIGHT_HOURS} hours",
        action=(
            "See whether the schedule ran (its log, `ray job list`) and how the job ended: 2 is a regression, 1 bad "
            f"input. A preset that is no longer swept is forgotten after {_REMEMBERED}; silence it until then."
        ),
    ),
)


def alert_rules() -> str:
    """The rules as Prometheus reads them, in YAML."""
    lines = ["# Written by: python -m otad_ray.monitoring", "groups:", "  - name: otad", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",
            f"        for: {alert.minutes}m",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.action)}",
            f"          runbook: {json.dumps(f'{_RUNBOOK}#{alert.name.lower()}')}",
        ]
    return "\n".join(lines) + "\n"
