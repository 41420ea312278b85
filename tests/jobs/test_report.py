"""The job that makes a page of several sweeps: what it writes, and that it writes nothing of bad input."""

import json
from pathlib import Path

import pytest

from helpers.planted_sweeps import write_sweep
from otad_ray.errors import InputError
from otad_ray.jobs.cli import run_job
from otad_ray.jobs.report import ReportConfig, run_report
from otad_ray.pages import read_entries


def test_page_shows_the_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps = [str(write_sweep(tmp_path / "a")), str(write_sweep(tmp_path / "b", ("knn",)))]
    run_job("report", [*sweeps, "--output", str(tmp_path / "page.html")])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["defenses"], told["entries"], told["groups"]) == (3, [], ["digits, l2"])
    text = (tmp_path / "page.html").read_text()
    assert all(f"<td>{name}</td>" in text for name in ("otad", "net", "knn"))
    assert len(text) < 100_000


def test_entries_are_added_and_replaced(tmp_path: Path) -> None:
    entries, page = tmp_path / "entries", str(tmp_path / "page.html")
    first, second = write_sweep(tmp_path / "a"), write_sweep(tmp_path / "b", ("otad", "knn"), count=80)
    run_report(ReportConfig(directories=(str(first),), entries=str(entries), output=page))
    told = run_report(ReportConfig(directories=(str(second),), defense=("otad",), entries=str(entries), output=page))
    assert told["entries"] == [str(entries / "digits-l2-otad.json")]
    assert {entry.standing.defense: entry.samples for entry in read_entries(entries)} == {"net": 50, "otad": 80}
    before = Path(page).read_text()
    run_report(ReportConfig(entries=str(entries), output=page))
    assert Path(page).read_text() == before


@pytest.mark.parametrize("bad", ["sweep", "entry"])
def test_nothing_is_written_of_bad_input(bad: str, tmp_path: Path) -> None:
    entries, page = tmp_path / "entries", tmp_path / "page.html"
    run_report(ReportConfig(directories=(str(write_sweep(tmp_path / "a")),), entries=str(entries), output=str(page)))
    if bad == "entry":
        (entries / "digits-l2-net.json").write_text("{}")
    before = {path: path.read_text() for path in (*entries.iterdir(), page)}
    given = (str(write_sweep(tmp_path / "b", ("knn",))), *([str(tmp_path / "c")] if bad == "sweep" else []))
    with pytest.raises(InputError, match=r"c is no sweep directory" if bad == "sweep" else r"net\.json lacks"):
        run_report(ReportConfig(directories=given, entries=str(entries), output=str(page)))
    assert {path: path.read_text() for path in (*entries.iterdir(), page)} == before


def test_missing_and_impossible_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need a sweep's directory, or --entries"):
        ReportConfig()
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        run_report(ReportConfig(directories=(str(write_sweep(tmp_path / "a")),), output=str(tmp_path)))
    with pytest.raises(InputError, match="holds no entry"):
        run_report(ReportConfig(entries=str(tmp_path / "none"), output=str(tmp_path / "page.html")))


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    sweep = write_sweep(tmp_path / "a", (evil,), preset=evil, command=evil)
    run_report(ReportConfig(directories=(str(sweep),), output=str(tmp_path / "page.html")))
    text = (tmp_path / "page.html").read_text()
    assert evil not in text
    assert "&lt;script&gt;" in text
