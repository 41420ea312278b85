"""The dashboard as Grafana's JSON."""

from collections.abc import Iterator
from typing import Any

from otad_ray.monitoring.metrics import ROWS
from otad_ray.monitoring.panels import PANELS, Panel

UID = "otad"
# Grafana 10 reads it, and later ones bring it up to their own.
_SCHEMA_VERSION = 38
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
# Columns and rows of the grid that a panel takes.
_SIZES = {"stat": (6, 4), "timeseries": (12, 8), "bars": (12, 8)}
_TYPES = {"stat": "stat", "timeseries": "timeseries", "bars": "bargauge"}
_NOW = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {**_NOW, "colorMode": "none", "graphMode": "none", "textMode": "value_and_name"},
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "bars": {**_NOW, "orientation": "horizontal", "displayMode": "basic"},
}


def dashboard() -> dict[str, Any]:
    """The dashboard, for a Prometheus that is chosen in it."""
    return {
        "uid": UID,
        "title": "OTAD jobs",
        "description": "Label jobs, sweeps and nights of otad_ray. Written by: python -m otad_ray.monitoring",
        "tags": ["otad", "ray"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_source_variable(), _preset_variable()]},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Panels from left to right, a new line where one does not fit."""
    x = y = height = 0
    for number, panel in enumerate(PANELS, start=1):
        columns, rows = _SIZES[panel.draw]
        if x + columns > _COLUMNS:
            x, y, height = 0, y + height, 0
        yield _panel(panel, number, {"x": x, "y": y, "w": columns, "h": rows})
        x, height = x + columns, max(height, rows)


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.draw == "bars":
        defaults |= {"min": 0, "max": 1}
    # Stats and bars show what is now; asking for the whole range would cost more and say no more.
    instant = panel.draw != "timeseries"
    return {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "type": _TYPES[panel.draw],
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.draw],
        "targets": [
            {
                "refId": "A",
                "datasource": _SOURCE,
                "expr": panel.expression,
                "legendFormat": panel.legend,
                "instant": instant,
                "range": not instant,
            }
        ],
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
    }


def _preset_variable() -> dict[str, Any]:
    values = f"label_values({ROWS.series}, preset)"
    return {
        "name": "preset",
        "label": "Preset",
        "type": "query",
        "datasource": _SOURCE,
        "definition": values,
        "query": {"query": values, "refId": "presets"},
        # Anew with every change of the time range.
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }
