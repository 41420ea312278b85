"""What each panel of the dashboard should show, by what the manifests of the jobs say."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from otad_ray.monitoring.panels import UNSOLVED_STATUSES

# The panels of recent minutes average over so many seconds.
_WINDOW_SECONDS = 300
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
