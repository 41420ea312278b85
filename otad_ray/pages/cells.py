"""Cells of tables: numbers as people read them, with the number itself to sort by."""

from collections.abc import Iterable, Mapping
from typing import Any

from otad_ray.evaluation import Proportion
from otad_ray.pages.layout import Cell, Table

_NONE = "–"  # noqa: RUF001


def text_cell(text: Any) -> Cell:
    """Return a cell of plain text; a dash for None and for nothing."""
    return Cell(text=str(text) if text not in (None, "") else _NONE)


def number_cell(value: float | None, digits: int = 4) -> Cell:
    """Return a cell of a number with so many significant digits; a dash for None."""
    return Cell(text=_NONE if value is None else f"{value:.{digits}g}", key=value)


def share_cell(share: Proportion | None, *, whole: int | None = None, mark: str = "") -> Cell:
    """Return a cell of a share in percent with its 95 % interval.

    Args:
        share: the share; None shows a dash.
        whole: samples of the others; a share of another number of samples names its own.
        mark: follows the number.
    """
    if share is None or not share.n:
        return Cell(text=_NONE)
    own = f", n = {share.n}" if whole not in (None, share.n) else ""
    note = f"{100 * share.low:.1f} to {100 * share.high:.1f}{own}"
    return Cell(text=f"{100 * share.value:.1f}{mark}", key=share.value, note=note)


def _write_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as one line; nested ones are named with a dot."""
    flat = [
        (f"{name}.{inner}", value) if isinstance(outer, Mapping) else (name, outer)
        for name, outer in settings.items()
        for inner, value in (outer.items() if isinstance(outer, Mapping) else [("", None)])
    ]
    return ", ".join(f"{name} = {value}" for name, value in flat)


def tabulate_settings(attacks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of the settings of attacks, by name."""
    rows = [(text_cell(name), text_cell(_write_settings(settings))) for name, settings in attacks.items()]
    return Table(title="attacks", columns=("attack", "settings"), rows=rows)


def fact_table(title: str, facts: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Table:
    """Return a table with a row for each fact: its name and what it is."""
    items = facts.items() if isinstance(facts, Mapping) else facts
    rows = [
        (text_cell(name), text_cell(_write_settings(value) if isinstance(value, Mapping) else value))
        for name, value in items
    ]
    return Table(title=title, columns=("what", "value"), rows=rows)
