"""A leaderboard of brackets: entries of many sweeps on one page, each data set and norm by itself."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from otad_ray.artifacts import content_hash, write_json
from otad_ray.errors import InputError
from otad_ray.pages.cells import tabulate_settings, text_cell
from otad_ray.pages.entry import Entry, read_entry, read_sweep
from otad_ray.pages.layout import Page, Section, Table
from otad_ray.pages.standing import rank_defenses

_TEXT = (
    "Each stands by its bracket: the truth about its robust accuracy lies between the certified share, which is "
    "proven, and the worst case over all attacks that were run, which was found. Ranks go by the worst case. Small "
    "numbers are 95 % Wilson intervals."
)
_ORIGIN = ("defense", "preset", "samples", "seed", "otad_ray", "commit", "sweep", "command")


def read_sweeps(directories: Iterable[Path], defenses: Sequence[str] = ()) -> list[Entry]:
    """Return the entries of several sweeps.

    Args:
        directories: of the sweeps.
        defenses: names of those that are wanted, in every sweep; all if none is named.

    Raises:
        InputError: for a directory without entries, and for two sweeps that give the same entry.
    """
    found: dict[str, tuple[Path, Entry]] = {}
    for directory in directories:
        for entry in read_sweep(directory, defenses):
            if entry.file_name in found:
                raise InputError(
                    f"{found[entry.file_name][0]} and {directory} both have {entry.standing.defense!r} on "
                    f"{entry.data_set} ({entry.norm}) of preset {entry.preset!r}; leave one of them out"
                )
            found[entry.file_name] = (directory, entry)
    return [entry for _, entry in found.values()]


def read_entries(folder: Path) -> list[Entry]:
    """Return the entries of a folder, in the order of their files' names; InputError for one that is not valid."""
    return [read_entry(path) for path in sorted(folder.glob("*.json"))]


def write_entries(folder: Path, entries: Iterable[Entry]) -> list[Path]:
    """Write each entry as a file of its own, in place of an earlier one, and return their paths."""
    paths = []
    for entry in entries:
        paths.append(folder / entry.file_name)
        write_json(paths[-1], entry)
    return paths


def make_leaderboard(entries: Sequence[Entry], *, title: str, first: Sequence[Section] = ()) -> Page:
    """Return the page of entries.

    Args:
        entries: in any order.
        title: heading of the page.
        first: sections before the entries.
    """
    groups = sorted({entry.group for entry in entries})
    sections = [_show_group([entry for entry in entries if entry.group == group]) for group in groups]
    lead = f"{len(entries)} defenses. {_TEXT}" if entries else "There is no entry."
    return Page(title=title, lead=lead, sections=[*first, *sections], numbers=list(entries))


def _show_group(entries: Sequence[Entry]) -> Section:
    """Return a section of entries that share the data set and the norm."""
    data_set, norm = entries[0].group
    rows = [
        [
            text_cell(entry.standing.defense),
            text_cell(entry.preset),
            text_cell(entry.samples),
            text_cell(entry.seed),
            text_cell(entry.origin["versions"]["otad_ray"]),
            *(text_cell(entry.origin[name]) for name in ("commit", "sweep", "command")),
        ]
        for entry in entries
    ]
    return Section(
        title=f"{data_set}, {norm}",
        text=[f"eps: {entries[0].eps_unit}"],
        tables=[
            *rank_defenses([entry.standing for entry in entries], norm=norm),
            Table(title="how each was measured", columns=_ORIGIN, rows=rows),
            tabulate_settings(_merge_settings(entries)),
        ],
    )


def _merge_settings(entries: Sequence[Entry]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of attacks by name; where they differ, the defenses follow the name."""
    users: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        for name, settings in entry.attacks.items():
            users.setdefault(name, {}).setdefault(content_hash(settings), []).append(entry)
    merged = {}
    for name, variants in users.items():
        for sharing in variants.values():
            defenses = ", ".join(entry.standing.defense for entry in sharing)
            merged[name if len(variants) == 1 else f"{name} ({defenses})"] = sharing[0].attacks[name]
    return merged
