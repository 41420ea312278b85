"""Real jobs, scraped by a real Prometheus: what each panel of the dashboard shows, beside what the manifests say.

Run it with `make dashboards-check`; it exits with 1 on a difference.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from helpers.expected_panels import EXPECTED, Facts, Series, read_labels, read_sweep
from helpers.local_servers import REPOSITORY, Head, Prometheus, prometheus, ray_head
from otad_ray.monitoring.files import DASHBOARD, RULES
from otad_ray.monitoring.panels import PANELS, Panel

_LABEL_JOB = ("label_qcp.py", "digits", "--training.epochs", "3", "--neighbors", "5", "--num-actors", "2")
_NIGHT = (
    *("nightly_sweep.py", "--presets", "digits", "--samples", "100", "--num-actors", "2", "--night", "checked"),
    *("--defense", "otad", "net", "--attacks", "noise", "pgd", "--eps", "0.5", "1.0"),
)
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Line:
    """One series of a panel: what it shows and what manifests say; None where there is no such series."""

    title: str
    labels: str
    shown: float | None
    expected: float | None

    @property
    def agrees(self) -> bool:
        # Seconds are added up in another order.
        return None not in (self.shown, self.expected) and isclose(self.shown, self.expected, rel_tol=1e-9)

    def __str__(self) -> str:
        values = ["-" if value is None else f"{value:.10g}" for value in (self.shown, self.expected)]
        return f"{self.title:<38}{self.labels:<40}{values[0]:>18}{values[1]:>18}  {'' if self.agrees else 'DIFFERS'}"


def compare(panel: Panel, shown: Series, facts: Facts) -> list[Line]:
    """A panel's series beside the manifests'."""
    expected = EXPECTED[panel.title](facts)
    if "over 5 minutes" in panel.title:
        # Of an earlier job nobody can say whether it is still within the window.
        shown = {labels: value for labels, value in shown.items() if dict(labels).get("kind", "attack") in facts.fresh}
    return [
        Line(panel.title, " ".join(value for _, value in labels), shown.get(labels), expected.get(labels))
        for labels in sorted({*shown, *expected})
    ]


def show(server: Prometheus, panel: Panel, at: float) -> Series:
    """What a panel shows with all presets."""
    found = server.query(panel.expression.replace("$preset", ".*"), at)
    return {tuple(sorted(item["metric"].items())): float(item["value"][1]) for item in found}


def check(server: Prometheus, facts: Facts) -> list[Line]:
    """All panels, as soon as they agree, or as they are when patience ends: Ray reports and Prometheus asks late."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        # Whole seconds: Prometheus knows time to the millisecond.
        now = Facts(facts.outputs, facts.rates, facts.fresh, facts.night, at=float(int(time.time())))
        lines = [line for panel in PANELS for line in compare(panel, show(server, panel, now.at), now)]
        if all(line.agrees for line in lines) or time.monotonic() > deadline:
            return lines
        time.sleep(1)


def run_job(head: Head, storage: Path, script: str, *options: str) -> dict[str, Any]:
    """Run a job on the head; its last line of output."""
    command = [sys.executable, str(REPOSITORY / "jobs" / script), *options, "--storage", str(storage)]
    environment = {**head.environment, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    for line in done.stderr.splitlines():
        # What a job says of metrics that may be missing explains a difference.
        if "metrics" in line:
            print(line, file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def check_jobs(head: Head, server: Prometheus, storage: Path) -> Iterator[tuple[str, list[Line]]]:
    """Run a label job and then a night; the panels after each."""
    labels, label_rate = read_labels(Path(run_job(head, storage, *_LABEL_JOB)["labels"]))
    facts = Facts((labels,), {"label_qcp": label_rate}, frozenset({"labels"}), None)
    yield "after a label job", check(server, facts)
    night = Path(run_job(head, storage, *_NIGHT)["night"])
    (sweep,) = night.glob("digits/sweeps/*")
    outputs, sweep_rate = read_sweep(sweep)
    rates = {"label_qcp": label_rate, "attack_sweep": sweep_rate}
    state = json.loads((night / "night.json").read_text())
    yield "after a night", check(server, Facts((labels, *outputs), rates, frozenset({"attack", "clean"}), state))


def check_provisioning(folder: Path) -> None:
    """RuntimeError unless Ray has left our dashboard beside its own."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (folder / "default_grafana_dashboard.json").is_file():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Ray wrote no dashboards to {folder}")
        time.sleep(0.2)
    if (folder / DASHBOARD.name).read_text() != (REPOSITORY / DASHBOARD).read_text():
        raise RuntimeError(f"Ray changed {folder / DASHBOARD.name}")


def main() -> None:
    """Start the servers, run the jobs, print the panels."""
    # Ended from outside, it ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Sockets lie below the temporary folder, and their paths must stay short.
    with tempfile.TemporaryDirectory(prefix="otad-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("ray", "grafana", "prometheus"):
            (folder / part).mkdir()
        (folder / "grafana" / DASHBOARD.name).write_text((REPOSITORY / DASHBOARD).read_text())
        settings = {
            "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR": str(folder / "grafana"),
            "RAY_metrics_report_interval_ms": "1000",
        }
        with (
            ray_head(folder / "ray", **settings) as head,
            prometheus(folder / "prometheus", head, REPOSITORY / RULES) as server,
        ):
            check_provisioning(folder / "grafana")
            differs = 0
            for when, lines in check_jobs(head, server, folder / "storage"):
                print(f"\n{when:<78}{'panel':>18}{'manifest':>18}")
                print(*lines, sep="\n", flush=True)
                differs += sum(not line.agrees for line in lines)
    print(f"\n{differs} values differ")
    raise SystemExit(1 if differs else 0)


if __name__ == "__main__":
    main()
