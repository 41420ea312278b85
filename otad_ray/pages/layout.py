"""What a page consists of: sections with tables, figures and pictures. All text in them is plain text, not HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bracket as a bar from 0 to 1.

    Attributes:
        low: where the bar begins, the certified share.
        high: where it ends, the worst case.
        mark: where a dot stands, the standard accuracy.
        is_certified: whether anything is proven; a bar of nothing proven begins at 0, and is hatched.
    """

    low: float
    high: float
    mark: float
    is_certified: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        key: what its column is sorted by; None for the text.
        note: smaller text below.
        bar: a bar in place of the text.
    """

    text: str
    key: float | None = None
    note: str | None = None
    bar: Bar | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that a click on a column's head sorts.

    Attributes:
        title: what it shows.
        columns: heads of its columns.
        rows: cells, one for each column.
        notes: sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Plot:
    """An interactive figure.

    Attributes:
        title: what it shows, also for those who cannot see it.
        traces: what plotly draws, of JSON types.
        layout: how plotly draws it.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside the page.

    Attributes:
        title: what it shows, also for those who cannot see it.
        file: name of its PNG file beside the page.
    """

    title: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        text: paragraphs below it.
        tables: tables below these.
        plots: interactive figures below these.
        pictures: pictures below these.
        is_folded: whether it is shown only after a click on its heading.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    pictures: Sequence[Picture] = ()
    is_folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page.

    Attributes:
        title: its heading.
        lead: a sentence below it.
        sections: its parts.
        numbers: the numbers that it shows, of JSON types, for programs.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    numbers: Any
