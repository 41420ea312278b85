"""The page of a sweep: its numbers are the report's, it needs no other file, and it stays small."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import CHROMIUM, look
from helpers.planted_sweeps import (
    DIMENSION,
    EPS,
    compare,
    describe,
    draw_noise,
    plant_regression,
    plant_report,
)
from otad_ray.evaluation import Bracket, Flag, RobustnessReport
from otad_ray.sweep import page as sweep_page
from otad_ray.sweep.page import write_sweep_page

MEGABYTE = 1_000_000
EVIL = "<script>alert('x')</script>"
# What would make a browser ask for something: addresses in attributes and in styles.
_ADDRESSES = re.compile(r"""(?:src|href|action|poster)\s*=\s*["']?([^"'\s>]+)|url\(([^)]*)\)|@import""")


def write(folder: Path, reports: dict[str, RobustnessReport], count: int, **fields: Any) -> str:
    classifiers = all(isinstance(report.bracket, Bracket) for report in reports.values())
    path = write_sweep_page(
        folder,
        describe(reports, count, **fields),
        reports,
        compare(reports) if classifiers else [],
        dimension=DIMENSION,
        reference=next(iter(reports)),
    )
    return path.read_text()


def plant_two(count: int) -> dict[str, RobustnessReport]:
    return {"otad": plant_report("otad", count), "net": plant_report("net", count, certified=False, seed=1)}


def read_numbers(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="numbers">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def without_plotly(text: str) -> str:
    return re.sub(r'<script id="plotly">.*?</script>', "", text, flags=re.DOTALL)


@pytest.fixture
def no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_page, "has_plotly", lambda: False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("otad-robustness", "otad-examples", "net-examples"):
        draw_noise(tmp_path / f"{name}.png", 60, 30)
    return tmp_path


def test_numbers_in_the_page_are_those_of_the_report(folder: Path) -> None:
    reports = plant_two(200)
    text = write(folder, reports, 200)
    numbers = read_numbers(text)
    bracket = reports["otad"].bracket
    assert isinstance(bracket, Bracket)
    for shown, budget in zip(numbers["defenses"]["otad"]["report"]["budgets"], bracket.budgets, strict=True):
        assert budget.certified is not None
        assert shown["worst_case"]["value"] == budget.worst_case.value
        assert shown["certified"]["count"] == budget.certified.count
        for share in (budget.worst_case, budget.certified):
            cell = f"{100 * share.value:.1f}<small>{100 * share.low:.1f} to {100 * share.high:.1f}</small>"
            assert cell in text
    curves = numbers["defenses"]["otad"]["curves"]
    at = {eps: curves["radii"].index(eps) for eps in EPS}
    assert [curves["worst_case"][at[eps]] for eps in EPS] == [item.worst_case.value for item in bracket.budgets]
    assert numbers["defenses"]["net"]["curves"]["certified"] is None
    assert numbers["command"] == "python jobs/attack_sweep.py digits"
    for said in ("Ranking", "Time by stage", "McNemar p against otad", "0123456", "a processor", "data:image/png"):
        assert said in text


def test_nothing_in_the_page_is_asked_for_elsewhere(folder: Path) -> None:
    text = write(folder, plant_two(50), 50)
    addresses = [a or b for a, b in _ADDRESSES.findall(without_plotly(text))]
    assert addresses
    assert [address for address in addresses if not address.startswith("data:")] == []
    assert "http" not in re.sub(r"http-equiv", "", without_plotly(text))
    assert "default-src 'none'" in text


@pytest.mark.usefixtures("no_plotly")
def test_without_plotly_figures_are_pictures(folder: Path) -> None:
    text = write(folder, plant_two(50), 50)
    assert '<script id="plotly">' not in text
    assert text.count("data:image/png") == 3
    assert len(text) < MEGABYTE


def test_names_and_messages_are_escaped(folder: Path) -> None:
    report = plant_report(EVIL, 50)
    object.__setattr__(report, "flags", (Flag(name=EVIL, severity="warning", message=EVIL),))
    object.__setattr__(report, "not_certified", EVIL)
    text = without_plotly(write(folder, {EVIL: report}, 50, command=EVIL, preset=EVIL))
    assert EVIL not in text
    assert text.count("&lt;script&gt;") >= 5
    assert read_numbers(text)["command"] == EVIL


@pytest.fixture(scope="module")
def many() -> dict[str, RobustnessReport]:
    """Reports of 100,000 samples, of which all certificates are refuted."""
    report = plant_report("otad", 100_000)
    object.__setattr__(report.bracket, "broken_certificates", tuple(range(100_000)))
    return {"otad": report}


@pytest.mark.parametrize("with_plotly", [True, False])
def test_page_of_100000_samples_stays_below_6_megabytes(
    with_plotly: bool, many: dict[str, RobustnessReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_page, "has_plotly", lambda: with_plotly)
    for name in ("robustness", "radii", "relaxations", "examples"):
        draw_noise(tmp_path / f"otad-{name}.png", 1300, 1250)
    text = write(tmp_path, many, 100_000)
    assert len(text.encode()) < 6 * MEGABYTE
    numbers = read_numbers(text)
    assert len(json.dumps(numbers)) < 100_000
    assert numbers["defenses"]["otad"]["report"]["broken_certificates"] == list(range(100))
    assert "would make this page too large, and is in the file otad-examples.png" in text


def test_regressions_have_a_page_of_errors(tmp_path: Path) -> None:
    text = write(tmp_path, {"otad": plant_regression("otad", 20)}, 20)
    assert '<th scope="col">SMAPE</th>' in text
    assert "Ranking" not in text
    assert '<script id="plotly">' not in text
    assert read_numbers(text)["defenses"]["otad"]["report"]["budgets"][1]["worst_mse"] == pytest.approx(1.0)


def test_incomplete_sweep_says_so(tmp_path: Path) -> None:
    assert "This sweep is incomplete" in write(tmp_path, plant_two(20), 20, complete=False)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize(("width", "with_plotly"), [(1400, True), (400, True), (400, False)])
def test_browser_shows_it_without_errors_and_without_scrolling_sideways(
    width: int,
    with_plotly: bool,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_page, "has_plotly", lambda: with_plotly)
    reports = {name: plant_report(name, 100, seed=len(name)) for name in ("otad", "knn", EVIL, "a_long_name" * 6)}
    write(folder, reports, 100)
    seen = look(folder / "report.html", width, tmp_path_factory.mktemp("browser"))
    assert seen.console == ()
    assert seen.frame == width
    assert seen.width <= width
    assert (seen.drawings > 0) == with_plotly
