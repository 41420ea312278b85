"""The page that a night ends with: what got worse, and the brackets of all its sweeps."""

from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from otad_ray.pages import REPORT, Section, Table, make_leaderboard, read_sweeps, text_cell, write_page


def write_night_page(night: Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page of a night into its folder, and return its path.

    Args:
        night: the folder.
        results: of each preset: its name, its regressions, and its sweep's directory unless the sweep failed.
    """
    rows = [
        [
            text_cell(result["preset"]),
            text_cell("; ".join(result["regressions"])),
            text_cell(relpath(result["sweep"], night) if "sweep" in result else None),
        ]
        for result in results
    ]
    table = Table(title="presets", columns=("preset", "regressions", "sweep, whose own page lies in it"), rows=rows)
    sweeps = dict.fromkeys(Path(result["sweep"]) for result in results if "sweep" in result)
    first = [Section(title="Regressions", tables=[table])]
    write_page(night / REPORT, make_leaderboard(read_sweeps(sweeps), title=f"Night {night.name}", first=first))
    return night / REPORT
