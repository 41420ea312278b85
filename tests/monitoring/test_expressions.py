"""Every panel's and every rule's expression, evaluated by Prometheus's own promtool on synthetic series."""

import json
import subprocess
from pathlib import Path

import pytest

from helpers.local_servers import find_tool
from otad_ray.monitoring.alerts import ALERTS, Alert, alert_rules
from otad_ray.monitoring.panels import PANELS

PROMTOOL = find_tool("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool; `make prometheus` fetches it")

ROWS = 'ray_otad_rows_total{kind="labels", preset="digits", '
# A value a minute. Numbers are such that shares are exact.
SERIES = {
    # Two actors of the metrics, and a series that is first seen within the window, with all of its value.
    ROWS + 'status="solved", WorkerId="a"}': "0+120x30",
    ROWS + 'status="solved", WorkerId="b"}': "372x30",
    ROWS + 'status="relaxed", WorkerId="a"}': "_x16 300x14",
    ROWS + 'status="infeasible", WorkerId="a"}': "1024x30",
    'ray_otad_rows_total{kind="attack", preset="digits", status="ok"}': "512x30",
    'ray_otad_rows_total{kind="labels", preset="other", status="failed"}': "7+7x30",
    'ray_otad_relaxations_total{kind="labels", preset="digits", WorkerId="a"}': "6000x30",
    'ray_otad_relaxations_total{kind="labels", preset="digits", WorkerId="b"}': "144x30",
    'ray_otad_stage_seconds_total{kind="labels", preset="digits", stage="search"}': "3x30",
    'ray_otad_stage_seconds_total{kind="labels", preset="digits", stage="solve"}': "4x30",
    'ray_otad_stage_seconds_total{kind="labels", preset="digits", stage="other"}': "1x30",
    'ray_otad_queries_total{preset="digits", defense="otad", attack="pgd"}': "0+300x30",
    'ray_otad_gradient_queries_total{preset="digits", defense="otad", attack="pgd"}': "4000x30",
    'ray_otad_samples_attacked_total{preset="digits", defense="otad", attack="pgd", norm="l2", eps="0.5"}': "128x30",
    'ray_otad_samples_attacked_total{preset="digits", defense="otad", attack="pgd", norm="l2", eps="1"}': "128x30",
    'ray_otad_samples_attacked_total{preset="digits", defense="knn", attack="noise", norm="l2", eps="1"}': "64x30",
    'ray_otad_samples_broken_total{preset="digits", defense="otad", attack="pgd", norm="l2", eps="0.5"}': "32x30",
    'ray_otad_samples_broken_total{preset="digits", defense="otad", attack="pgd", norm="l2", eps="1"}': "96x30",
    'ray_otad_samples_certified_total{preset="digits", defense="otad"}': "100x30",
    'ray_otad_job_rows{job_name="label_qcp", preset="digits"}': "1437x30",
    # Of a metrics actor that was replaced, too.
    'ray_otad_job_rows_done{job_name="label_qcp", preset="digits", WorkerId="a"}': "512x30",
    'ray_otad_job_rows_done{job_name="label_qcp", preset="digits", WorkerId="b"}': "1000x30",
    'ray_otad_job_rows_per_second{job_name="label_qcp", preset="digits"}': "250.5x30",
    'ray_otad_job_running{job_name="label_qcp", preset="digits"}': "1x30",
    'ALERTS{alertname="OtadJobStalled", alertstate="firing", preset="digits"}': "1x30",
    'ALERTS{alertname="OtadNightlyMissing", alertstate="pending", preset="digits"}': "1x30",
    'ALERTS{alertname="Watchdog", alertstate="firing"}': "1x30",
    'ray_otad_nightly_regressions{preset="digits"}': "2x30",
    'ray_otad_nightly_good_timestamp_seconds{preset="digits"}': "200x30",
}
JOB = '{job_name="label_qcp", preset="digits"}'
PGD = '{defense="otad", attack="pgd"}'
# By title, what a panel shows at 20 minutes with preset "digits".
PANEL_VALUES = {
    "Rows done": {JOB: 1000},
    "Rows to do": {JOB: 437},
    "Jobs running": {JOB: 1},
    "Rows per second, average of the run": {JOB: 250.5},
    "Alerts firing": {'{alertname="OtadJobStalled"}': 1},
    "Rows without a result": {'{kind="labels"}': 1024, '{kind="attack"}': 0},
    "Rows per second, over 5 minutes": {'{kind="labels"}': (600 + 300) / 300, '{kind="attack"}': 0},
    "Rows by status": {
        '{kind="labels", status="solved"}': 2772,
        '{kind="labels", status="relaxed"}': 300,
        '{kind="labels", status="infeasible"}': 1024,
        '{kind="attack", status="ok"}': 512,
    },
    "Share of rows by status": {
        '{kind="labels", status="solved"}': 2772 / 4096,
        '{kind="labels", status="relaxed"}': 300 / 4096,
        '{kind="labels", status="infeasible"}': 0.25,
        '{kind="attack", status="ok"}': 1,
    },
    "Relaxations": {'{kind="labels"}': 6144},
    "Relaxations per row": {'{kind="labels"}': 1.5},
    "Seconds by stage": {
        '{kind="labels", stage="search"}': 3,
        '{kind="labels", stage="solve"}': 4,
        '{kind="labels", stage="other"}': 1,
    },
    "Share of time by stage": {
        '{kind="labels", stage="search"}': 0.375,
        '{kind="labels", stage="solve"}': 0.5,
        '{kind="labels", stage="other"}': 0.125,
    },
    "Queries per second, over 5 minutes": {PGD: 5},
    "Queries": {PGD: 6000},
    "Gradient queries": {PGD: 4000},
    "Samples attacked": {PGD: 256, '{defense="knn", attack="noise"}': 64},
    "Samples broken": {PGD: 128},
    "Share of samples broken": {
        '{defense="otad", attack="pgd", eps="0.5"}': 0.25,
        '{defense="otad", attack="pgd", eps="1"}': 0.75,
        '{defense="knn", attack="noise", eps="1"}': 0,
    },
    "Samples certified": {'{defense="otad"}': 100},
    "Regressions of the last night": {'{preset="digits"}': 2},
    "Age of the last good night": {'{preset="digits"}': 1000},
}

RUNNING = {
    'ray_otad_job_running{job_name="label_qcp", preset="digits"}': "1x100",
    'ray_otad_job_rows{job_name="label_qcp", preset="digits"}': "100x100",
    'ray_otad_job_rows_done{job_name="label_qcp", preset="digits"}': "60x100",
    'ray_otad_job_progress_timestamp_seconds{job_name="label_qcp", preset="digits"}': "0+60x20 1200x80",
}
UNSOLVED = {ROWS + 'status="solved"}': "0+1x200", ROWS + 'status="failed"}': "_x99 50x100"}
GOOD = 'ray_otad_nightly_good_timestamp_seconds{preset="digits"}'
# Minutes between the values of a rule's series, where it is not one: days by the minute take promtool seconds.
STEPS = {"OtadNightlyMissing": 30}
# By name: series, then minutes with the labels that fire and their summary, or None.
RULE_VALUES = {
    "OtadJobStalled": [
        # The last progress is at 20 minutes.
        (RUNNING, 50, None),
        (
            RUNNING,
            52,
            ({"job_name": "label_qcp", "preset": "digits"}, "label_qcp digits: no shard through in 30 minutes"),
        ),
        ({name: "0x100" if "running" in name else values for name, values in RUNNING.items()}, 80, None),
        ({name: "100x100" if "done" in name else values for name, values in RUNNING.items()}, 80, None),
    ],
    "OtadRowsWithoutResult": [
        (UNSOLVED, 98, None),
        # All 50 come at once, in a series not seen before: 50 of 110.
        (
            UNSOLVED,
            106,
            ({"kind": "labels", "preset": "digits"}, "labels digits: 45.45% of the last hour's rows have no result"),
        ),
        # An hour later they are past.
        (UNSOLVED, 170, None),
        ({**UNSOLVED, ROWS + 'status="failed"}': "_x99 3x100"}, 110, None),
    ],
    "OtadNightlyRegression": [
        ({'ray_otad_nightly_regressions{preset="digits"}': "0x9 3x9"}, 5, None),
        (
            {'ray_otad_nightly_regressions{preset="digits"}': "0x9 3x9"},
            12,
            ({"preset": "digits"}, "digits: the last night found 3 regressions"),
        ),
    ],
    "OtadNightlyMissing": [
        ({GOOD: "0x100"}, 26 * 60, None),
        # The head that saw the night is gone after an hour.
        ({GOOD: "0x1"}, 27 * 60, ({"preset": "digits"}, "digits: no good night for 26 hours")),
        ({GOOD: "0x47 86400x60"}, 48 * 60, None),
    ],
}


def promtool(
    folder: Path, tests: list[dict], rules: tuple[str, ...] = (), step: int = 1
) -> subprocess.CompletedProcess:
    assert PROMTOOL is not None
    content = {"rule_files": rules, "evaluation_interval": f"{step}m", "tests": tests}
    # JSON is YAML.
    (folder / "tests.yml").write_text(json.dumps(content))
    return subprocess.run(
        [PROMTOOL, "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


def given(series: dict[str, str], step: int = 1) -> dict:
    values = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": f"{step}m", "input_series": values}


def panel_test(title: str, expression: str) -> dict:
    samples = [{"labels": labels, "value": value} for labels, value in PANEL_VALUES[title].items()]
    expected = {"expr": expression.replace("$preset", "digits"), "eval_time": "20m", "exp_samples": samples}
    return {**given(SERIES), "name": title, "promql_expr_test": [expected]}


def test_panels_show_what_they_should(tmp_path: Path) -> None:
    assert set(PANEL_VALUES) == {panel.title for panel in PANELS}
    done = promtool(tmp_path, [panel_test(panel.title, panel.expression) for panel in PANELS])
    assert done.returncode == 0, done.stdout + done.stderr


def rule_test(alert: Alert, series: dict[str, str], minutes: int, firing: tuple[dict[str, str], str] | None) -> dict:
    expected = []
    if firing is not None:
        labels, summary = firing
        runbook = f"docs/monitoring.md#{alert.name.lower()}"
        annotations = {"summary": summary, "description": alert.action, "runbook": runbook}
        expected = [{"exp_labels": {"severity": alert.severity, **labels}, "exp_annotations": annotations}]
    rule = {"eval_time": f"{minutes}m", "alertname": alert.name, "exp_alerts": expected}
    return {**given(series, STEPS.get(alert.name, 1)), "name": f"{alert.name} at {minutes}", "alert_rule_test": [rule]}


@pytest.mark.parametrize("step", [1, 30])
def test_rules_fire_when_they_should(tmp_path: Path, step: int) -> None:
    assert set(RULE_VALUES) == {alert.name for alert in ALERTS}
    alerts = [alert for alert in ALERTS if STEPS.get(alert.name, 1) == step]
    tests = [rule_test(alert, *case) for alert in alerts for case in RULE_VALUES[alert.name]]
    (tmp_path / "alerts.yml").write_text(alert_rules())
    done = promtool(tmp_path, tests, ("alerts.yml",), step)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("wrong", [("sum by (kind, status)", "sum by (kind)"), ("{preset", '{status="solved", preset')])
def test_a_wrong_expression_is_seen(tmp_path: Path, wrong: tuple[str, str]) -> None:
    (panel,) = [panel for panel in PANELS if panel.title == "Rows by status"]
    changed = panel.expression.replace(*wrong)
    assert changed != panel.expression
    assert promtool(tmp_path, [panel_test(panel.title, changed)]).returncode != 0
