"""Interactive figures, as plotly draws them, in the colors of the figures in files.

Plotly takes some tags in names for markup, so names are escaped here too.
"""

from collections.abc import Sequence
from html import escape
from itertools import cycle
from math import isfinite
from typing import Any

from otad_ray.evaluation import Bracket, BracketCurves, Proportion, RadiusCounts
from otad_ray.evaluation.bracket.figures import CERTIFIED_COLOR, PALETTE, WORST_COLOR
from otad_ray.pages.layout import Plot

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
_SHADE = "rgba(127, 127, 127, 0.2)"
# How plotly writes a number on an axis and beside a point.
_PERCENT = {"tickformat": ".0%", "hoverformat": ".1%"}


def robustness_plot(bracket: Bracket, curves: BracketCurves, *, norm: str, eps_unit: str, title: str) -> Plot:
    """Return accuracy over eps: both sides of the bracket over the radius, shaded between, and every attack.

    Args:
        bracket: shares at the budgets, with their intervals.
        curves: both sides of the bracket over the radius.
        norm: of the budgets.
        eps_unit: unit of eps, in words.
        title: says what the figure shows.
    """
    certified = "certified (probabilistic)" if bracket.probabilistic else "certified"
    traces: list[dict[str, Any]] = []
    if curves.certified is not None:
        traces.append(_curve(curves.radii, curves.certified, name=certified, color=CERTIFIED_COLOR, width=2.0))
    worst = _curve(curves.radii, curves.worst_case, name="worst case", color=WORST_COLOR, width=2.8)
    if traces:
        worst |= {"fill": "tonexty", "fillcolor": _SHADE}
    traces.append(worst)
    looks = zip(cycle(PALETTE), cycle(_SYMBOLS), cycle(_DASHES), strict=False)
    results = [item for item in bracket.attacks if item.norm == norm and isfinite(item.eps)]
    for (color, symbol, dash), attack in zip(looks, sorted({item.attack for item in results}), strict=False):
        own = [item for item in results if item.attack == attack]
        trace = _points([item.eps for item in own], [item.robust for item in own])
        look = {
            "name": escape(attack),
            "line": {"color": color, "width": 1.2, "dash": dash},
            "marker": {"symbol": symbol},
        }
        traces.append(trace | look)
    return Plot(title=title, traces=traces, layout=_layout(f"{norm} eps", eps_unit, "accuracy", _PERCENT))


def radius_plot(radii: RadiusCounts, *, eps_unit: str, title: str) -> Plot:
    """Return the histogram of certified radii by method."""
    centers = [(low + high) / 2 for low, high in zip(radii.edges, radii.edges[1:], strict=False)]
    traces = [
        {"type": "bar", "name": escape(name), "x": centers, "y": list(counts), "marker": {"color": color}}
        for (name, counts), color in zip(radii.counts.items(), cycle(PALETTE), strict=False)
    ]
    layout = _layout("certified l2 radius", eps_unit, f"of {radii.right} right samples", {})
    return Plot(title=title, traces=traces, layout=layout | {"barmode": "stack", "bargap": 0})


def relaxation_plot(relaxations: dict[str, tuple[float, ...]], *, title: str) -> Plot:
    """Return the shares of records by their number of relaxations."""
    traces = [
        {"type": "bar", "name": name, "x": list(range(len(shares))), "y": list(shares), "marker": {"color": color}}
        for (name, shares), color in zip(relaxations.items(), PALETTE, strict=False)
    ]
    return Plot(title=title, traces=traces, layout=_layout("relaxations of (l, L)", "", "share of records", _PERCENT))


def _curve(radii: Sequence[float], shares: Sequence[float], *, name: str, color: str, width: float) -> dict[str, Any]:
    line = {"color": color, "width": width}
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(radii), "y": list(shares), "line": line}


def _points(eps: Sequence[float], shares: Sequence[Proportion]) -> dict[str, Any]:
    """Return shares with their intervals."""
    interval = {
        "type": "data",
        "symmetric": False,
        "array": [share.high - share.value for share in shares],
        "arrayminus": [share.value - share.low for share in shares],
        "thickness": 1,
        "width": 3,
    }
    values = [share.value for share in shares]
    return {"type": "scatter", "mode": "lines+markers", "x": list(eps), "y": values, "error_y": interval}


def _layout(horizontal: str, unit: str, vertical: str, number: dict[str, str]) -> dict[str, Any]:
    # Two lines fit where the page is narrow.
    below = f"{escape(horizontal)}<br>({escape(unit)})" if unit else escape(horizontal)
    axis = {"gridcolor": "#e4e4e4", "zeroline": False, "automargin": True}
    return {
        "xaxis": {**axis, "title": {"text": below}},
        "yaxis": {**axis, "title": {"text": vertical}, "rangemode": "tozero", **number},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        "font": {"color": "#1a1a1a", "size": 13},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
    }
