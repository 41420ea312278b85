"""The files that are made from the definitions: dashboard, alert rules, and the tables of docs/monitoring.md."""

import json
from collections.abc import Mapping
from pathlib import Path

from otad_ray.artifacts import atomic_file
from otad_ray.errors import InputError
from otad_ray.monitoring.alerts import ALERTS, alert_rules
from otad_ray.monitoring.grafana import dashboard
from otad_ray.monitoring.metrics import METRICS

DASHBOARD = Path("dashboards", "otad.json")
RULES = Path("dashboards", "alerts.yml")
DOCUMENT = Path("docs", "monitoring.md")


def files(root: Path) -> Mapping[Path, str]:
    """What each file below the repository's root should hold; InputError where root is no repository."""
    document = root / DOCUMENT
    if not document.is_file():
        raise InputError(f"{document} does not exist; give the root of the repository")
    text = document.read_text()
    for name, block in {"metrics": _metric_table(), "alerts": _alert_sections()}.items():
        text = _replace(text, name, block)
    return {
        root / DASHBOARD: json.dumps(dashboard(), indent=2) + "\n",
        root / RULES: alert_rules(),
        document: text,
    }


def write_files(root: Path) -> list[Path]:
    """Write them; the paths of those that changed."""
    changed = {path: text for path, text in files(root).items() if not path.is_file() or path.read_text() != text}
    for path, text in changed.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text)
    return list(changed)


def _replace(text: str, name: str, block: str) -> str:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{DOCUMENT} has no block between {begin.strip()!r} and {end!r}; restore it")
    return f"{before}{begin}{block}\n{end}{after}"


def _metric_table() -> str:
    lines = ["| series | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{name}`" for name in metric.labels)
        lines.append(f"| `{metric.series}` | {metric.kind} | {metric.unit} | {labels} | {metric.description} |")
    return "\n".join(lines)


def _alert_sections() -> str:
    sections = []
    for alert in ALERTS:
        wait = f"after {alert.minutes} min" if alert.minutes else "at once"
        sections.append(f"### {alert.name}\n\n{alert.severity}, {wait}. {alert.action}\n\n    {alert.expression}\n")
    return "\n".join(sections).rstrip()
