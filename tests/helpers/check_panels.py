"""Real jobs, scraped by a real Prometheus: what each panel of the dashboard shows, beside what the manifests say.

Run it with `make dashboards-check`; it exits with 1 on a difference.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import isclose
from pathlib import Path
from typing import Any

from helpers.local_servers import REPOSITORY, Head, Prometheus, prometheus, ray_head
from otad_ray.monitoring.files import DASHBOARD, RULES
from otad_ray.monitoring.panels import PANELS, UNSOLVED_STATUSES, Panel

_LABEL_JOB = ("label_qcp.py", "digits", "--training.epochs", "3", "--neighbors", "5", "--num-actors", "2")
_NIGHT = (
    *("nightly_sweep.py", "--presets", "digits", "--samples", "100", "--num-actors", "2", "--night", "checked"),
    *("--defense", "otad", "net", "--attacks", "noise", "pgd", "--eps", "0.5", "1.0"),
)
# Of the panels of recent minutes.
_WINDOW_SECONDS = 300
_PATIENCE_SECONDS = 60
_PRESET = "digits"

# Values by the labels of their series: sorted pairs of name and value.
Series = dict[tuple[tuple[str, str], ...], float]


@dataclass(frozen=True)
class Output:
    """A directory of shards: its kind, further labels, and its manifest's counts."""

    kind: str
    labels: Mapping[str, str]
    rows: int
    counts: Mapping[str, Any]
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Facts:
    """What manifests say. rates: rows a second by job. fresh: kinds of the job that ended last. night: its file."""

    outputs: tuple[Output, ...]
    rates: Mapping[str, float]
    fresh: frozenset[str]
    night: Mapping[str, Any] | None
    at: float = 0.0


def read_labels(directory: Path) -> tuple[Output, float]:
    """A label directory, and its rows a second."""
    manifest = json.loads((directory / "manifest.json").read_text())
    statistics = manifest["statistics"]
    relaxations = sum(int(number) * rows for number, rows in statistics["relaxations"].items())
    counts = {"statuses": statistics["statuses"], "relaxations": relaxations}
    return Output("labels", {}, manifest["rows"], counts, manifest["stage_seconds"]), manifest["rows_per_second"]


def read_sweep(directory: Path) -> tuple[list[Output], float]:
    """The directories of a sweep, and its rows a second."""
    sweep = json.loads((directory / "manifest.json").read_text())
    outputs = [output for name, described in sweep["defenses"].items() for output in _of_defense(name, described)]
    return outputs, sum(output.rows for output in outputs) / sweep["seconds"]


def _of_defense(name: str, described: Mapping[str, Any]) -> Iterator[Output]:
    for path in (described["clean"], *described["records"]):
        manifest = json.loads((Path(path) / "manifest.json").read_text())
        identity, labels = manifest["identity"], {"defense": name}
        if manifest["kind"] == "attack":
            labels |= {"attack": identity["attack"]["name"], "eps": f"{float(identity['budget']['eps']):g}"}
        yield Output(manifest["kind"], labels, manifest["rows"], manifest["counts"], manifest["stage_seconds"])


def _add(*items: Iterable[tuple[Mapping[str, str], float]]) -> Series:
    """Sums by labels; a counter that never grew has no series."""
    total: Counter[tuple[tuple[str, str], ...]] = Counter()
    for labels, value in chain(*items):
        total[tuple(sorted(labels.items()))] += value
    return {labels: value for labels, value in total.items() if value}


def _kind(output: Output) -> dict[str, str]:
    return {"kind": output.kind}


def _picked(output: Output, *names: str) -> dict[str, str]:
    return {name: output.labels[name] for name in names}


def _rows(facts: Facts) -> Series:
    return _add((_kind(output), output.rows) for output in facts.outputs)


def _statuses(facts: Facts) -> Series:
    return _add(
        ({**_kind(output), "status": status}, rows)
        for output in facts.outputs
        for status, rows in output.counts["statuses"].items()
    )


def _stages(facts: Facts) -> Series:
    return _add(
        ({**_kind(output), "stage": stage}, seconds)
        for output in facts.outputs
        for stage, seconds in output.stage_seconds.items()
    )


def _relaxations(facts: Facts) -> Series:
    return _add((_kind(output), output.counts["relaxations"]) for output in facts.outputs)


def _attacked(facts: Facts, count: str, *names: str) -> Series:
    attacks = [output for output in facts.outputs if output.kind == "attack"]
    return _add((_picked(output, *names), output.counts[count]) for output in attacks)


def _shares(parts: Series, of: Series, by: Callable[[dict[str, str]], Mapping[str, str]]) -> Series:
    """Each part over the whole that `by` its labels it belongs to."""
    return {labels: value / of[tuple(sorted(by(dict(labels)).items()))] for labels, value in parts.items()}


def _by_kind(labels: dict[str, str]) -> dict[str, str]:
    return {"kind": labels["kind"]}


def _share_broken(facts: Facts) -> Series:
    names = ("defense", "attack", "eps")
    broken, attacked = _attacked(facts, "broken", *names), _attacked(facts, "attacked", *names)
    return {labels: broken.get(labels, 0) / count for labels, count in attacked.items()}


def _unsolved(facts: Facts) -> Series:
    without = dict.fromkeys(_rows(facts), 0.0)
    for labels, rows in _statuses(facts).items():
        if dict(labels)["status"] in UNSOLVED_STATUSES:
            without[tuple(sorted(_by_kind(dict(labels)).items()))] += rows
    return without


def _stage_totals(facts: Facts) -> Series:
    return _add((_kind(output), seconds) for output in facts.outputs for seconds in output.stage_seconds.values())


def _of_jobs(facts: Facts, value: Callable[[str], float]) -> Series:
    return {(("job_name", name), ("preset", _PRESET)): value(name) for name in facts.rates}


def _job_rows(facts: Facts, job_name: str) -> int:
    return sum(output.rows for output in facts.outputs if (output.kind == "labels") == (job_name == "label_qcp"))


def _rows_per_second(facts: Facts) -> Series:
    return _add(
        (_kind(output), output.rows / _WINDOW_SECONDS) for output in facts.outputs if output.kind in facts.fresh
    )


def _of_night(facts: Facts, value: float) -> Series:
    return {} if facts.night is None else {(("preset", _PRESET),): value}


def _age(facts: Facts) -> Series:
    return _of_night(facts, facts.at - facts.night["finished_at"]) if facts.night else {}


# By title, what a panel has to show.
EXPECTED: Mapping[str, Callable[[Facts], Series]] = {
    "Rows done": lambda facts: _of_jobs(facts, lambda name: _job_rows(facts, name)),
    "Rows to do": lambda facts: _of_jobs(facts, lambda name: 0),
    "Jobs running": lambda facts: _of_jobs(facts, lambda name: 0),
    "Rows per second, average of the run": lambda facts: _of_jobs(facts, lambda name: facts.rates[name]),
    "Alerts firing": lambda facts: {(): 0},
    "Rows without a result": _unsolved,
    "Rows per second, over 5 minutes": _rows_per_second,
    "Rows by status": _statuses,
    "Share of rows by status": lambda facts: _shares(_statuses(facts), _rows(facts), _by_kind),
    "Relaxations": _relaxations,
    "Relaxations per row": lambda facts: _shares(_relaxations(facts), _rows(facts), _by_kind),
    "Seconds by stage": _stages,
    "Share of time by stage": lambda facts: _shares(_stages(facts), _stage_totals(facts), _by_kind),
    "Queries per second, over 5 minutes": lambda facts: {
        labels: queries / _WINDOW_SECONDS
        for labels, queries in _attacked(facts, "queries", "defense", "attack").items()
    },
    "Queries": lambda facts: _attacked(facts, "queries", "defense", "attack"),
    "Gradient queries": lambda facts: _attacked(facts, "gradient_queries", "defense", "attack"),
    "Samples attacked": lambda facts: _attacked(facts, "attacked", "defense", "attack"),
    "Samples broken": lambda facts: _attacked(facts, "broken", "defense", "attack"),
    "Share of samples broken": _share_broken,
    "Samples certified": lambda facts: _add(
        (_picked(output, "defense"), output.counts["certified"]) for output in facts.outputs if output.kind == "clean"
    ),
    "Regressions of the last night": lambda facts: _of_night(facts, 0),
    "Age of the last good night": _age,
}


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
