"""Make one page of several sweeps: a leaderboard of brackets, each data set and norm by itself.

python jobs/report.py DIR DIR --output leaderboard.html
python jobs/report.py DIR --defense otad --entries docs/leaderboard --output docs/leaderboard.html
python jobs/report.py --entries docs/leaderboard --output docs/leaderboard.html
"""

import logging
from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from otad_ray.errors import InputError
from otad_ray.locations import resolve_path
from otad_ray.pages import make_leaderboard, read_entries, read_sweeps, write_entries, write_page

logger = logging.getLogger(__name__)

_TITLE = "Leaderboard of brackets"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Options of the page.

    Attributes:
        directories: sweeps' directories, such as <storage>/digits/sweeps/<hash>.
        defense: names of the defenses that are shown (default: all of the sweeps').
        entries: a folder of entries, one JSON file for each defense. The sweeps' entries are added to it, in place of
            earlier ones of the same names, and the page shows all of the folder (default: the page shows the sweeps).
        output: the page.
    """

    directories: Positional[tuple[str, ...]] = ()
    defense: tuple[str, ...] = ()
    entries: str | None = None
    output: str = "leaderboard.html"

    def __post_init__(self) -> None:
        if not self.directories and self.entries is None:
            raise InputError("need a sweep's directory, or --entries FOLDER; a sweep's last line names its directory")


def run_report(config: ReportConfig) -> dict[str, Any]:
    """Write the page and, if asked for, the entries, and return the job's summary. Nothing is written of bad input."""
    output = resolve_path(config.output, "--output")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file in it, such as {output / 'leaderboard.html'}")
    added = read_sweeps([resolve_path(name, "DIR") for name in config.directories], config.defense)
    shown, written = added, []
    if config.entries is not None:
        folder = resolve_path(config.entries, "--entries")
        shown = list({entry.file_name: entry for entry in (*read_entries(folder), *added)}.values())
        written = write_entries(folder, added)
    if not shown:
        raise InputError(f"{config.entries} holds no entry, and no sweep is named; name a sweep's directory")
    write_page(output, make_leaderboard(sorted(shown, key=lambda entry: entry.file_name), title=_TITLE))
    for path in (*written, output):
        logger.info("wrote %s", path)
    return {
        "page": str(output),
        "entries": [str(path) for path in written],
        "defenses": len(shown),
        "groups": sorted({", ".join(entry.group) for entry in shown}),
    }
