"""Pages as HTML: escaped text, numbers for programs, and pictures as far as there is room."""

import json
import re
from pathlib import Path

import pytest

from helpers.planted_sweeps import draw_noise
from otad_ray.pages import Bar, Cell, Page, Picture, Section, Table, render, render_page, write_page

EVIL = "<script>&\"'</script>"


def make_page(**fields) -> Page:
    return Page(**{"title": "A title", "lead": "A lead.", "sections": [], "numbers": {}, **fields})


def test_every_text_is_escaped() -> None:
    bar = Bar(low=0.1, high=0.5, mark=0.9, is_certified=True)
    cells = [Cell(text=EVIL, note=EVIL), Cell(text=EVIL, bar=bar)]
    table = Table(title=EVIL, columns=(EVIL, EVIL), rows=[cells], notes=[EVIL])
    section = Section(title=EVIL, text=[EVIL], tables=[table], pictures=[Picture(title=EVIL, file=EVIL)])
    text = render_page(make_page(title=EVIL, lead=EVIL, sections=[section], numbers={EVIL: EVIL}))
    assert EVIL not in text
    assert "<script>&" not in text


def test_numbers_can_be_read_again() -> None:
    text = render_page(make_page(numbers={"name": EVIL, "value": 0.1, "none": None, "far": float("inf")}))
    (found,) = re.findall(r'id="numbers">(.*?)</script>', text)
    assert json.loads(found) == {"name": EVIL, "value": 0.1, "none": None, "far": "inf"}


def test_pictures_beyond_the_room_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_MAX_LENGTH", 60_000)
    draw_noise(tmp_path / "large.png", 1500, 800)
    draw_noise(tmp_path / "small.png", 40, 20)
    pictures = [Picture(title=f"the {name}", file=f"{name}.png") for name in ("large", "small")]
    write_page(tmp_path / "page.html", make_page(sections=[Section(title="Pictures", pictures=pictures)]))
    text = (tmp_path / "page.html").read_text()
    assert len(text) < 60_000
    assert text.count("data:image/png;base64,") == 1
    assert "is in the file large.png" in text


def test_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, make_page())
    before = path.read_text()
    missing = Section(title="Pictures", pictures=[Picture(title="missing", file="missing.png")])
    with pytest.raises(FileNotFoundError):
        write_page(path, make_page(sections=[missing]))
    assert path.read_text() == before
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"]
