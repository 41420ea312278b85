"""The leaderboard: groups that are not mixed, and the one that the repository keeps."""

import re
from pathlib import Path

import pytest

from helpers.browser import CHROMIUM, look
from helpers.planted_sweeps import write_sweep
from otad_ray.errors import InputError
from otad_ray.jobs.report import ReportConfig, run_report
from otad_ray.pages import make_leaderboard, read_entries, read_sweeps, render_page

REPOSITORY = Path(__file__).parents[2]
KEPT = REPOSITORY / "docs" / "leaderboard"
PAGE = REPOSITORY / "docs" / "leaderboard.html"


def test_data_sets_and_norms_have_sections_of_their_own(tmp_path: Path) -> None:
    sweeps = [
        write_sweep(tmp_path / "a"),
        write_sweep(tmp_path / "b", ("knn",)),
        write_sweep(tmp_path / "c", data_set="mnist", preset="mnist"),
    ]
    page = make_leaderboard(read_sweeps(sweeps), title="Leaderboard")
    assert [section.title for section in page.sections] == ["digits, l2", "mnist, l2"]
    ranked = [{row[1].text for row in section.tables[0].rows} for section in page.sections]
    assert ranked == [{"otad", "net", "knn"}, {"otad", "net"}]


def test_same_defense_of_two_sweeps_is_refused(tmp_path: Path) -> None:
    sweeps = [write_sweep(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"a and .*b both have 'otad' on digits \(l2\).*leave one of them out"):
        read_sweeps(sweeps)


def test_attacks_are_named_once_unless_their_settings_differ(tmp_path: Path) -> None:
    sweeps = [
        write_sweep(tmp_path / "a"),
        write_sweep(tmp_path / "b", ("knn",), attacks={"noise": {}, "pgd": {"n": 1}}),
    ]
    page = make_leaderboard(read_sweeps(sweeps), title="Leaderboard")
    shown = {row[0].text for row in page.sections[0].tables[-1].rows}
    assert shown == {"noise (otad, net)", "noise (knn)", "pgd (otad, net)", "pgd (knn)"}
    (page,) = [make_leaderboard(read_sweeps(sweeps[:1]), title="Leaderboard")]
    assert {row[0].text for row in page.sections[0].tables[-1].rows} == {"noise", "pgd"}


def test_entries_that_the_repository_keeps_are_valid() -> None:
    assert len(read_entries(KEPT)) > 0
    for path in KEPT.iterdir():
        assert not re.search(r"/(?:home|root|tmp|work|Users)/", path.read_text()), path


def test_page_that_the_repository_keeps_is_made_of_its_entries(tmp_path: Path) -> None:
    run_report(ReportConfig(entries=str(KEPT), output=str(tmp_path / "page.html")))
    assert PAGE.read_text() == (tmp_path / "page.html").read_text(), (
        "run: python jobs/report.py --entries docs/leaderboard --output docs/leaderboard.html"
    )
    assert '<script id="plotly">' not in PAGE.read_text()


def test_page_without_entries_says_so() -> None:
    assert "There is no entry." in render_page(make_leaderboard([], title="Leaderboard"))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1400, 400])
def test_browser_shows_it_without_errors_and_without_scrolling_sideways(width: int, tmp_path: Path) -> None:
    seen = look(PAGE, width, tmp_path)
    assert seen.console == ()
    assert seen.width <= seen.frame == width
