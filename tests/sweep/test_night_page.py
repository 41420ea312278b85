"""The page of a night: its regressions, also of sweeps that failed, and the rankings of the others."""

from pathlib import Path

from helpers.planted_sweeps import write_sweep
from otad_ray.sweep.night_page import write_night_page


def test_page_names_regressions_and_ranks_defenses(tmp_path: Path) -> None:
    results = [
        {"preset": "digits", "regressions": [], "sweep": str(write_sweep(tmp_path / "a"))},
        {"preset": "mnist", "regressions": ["the sweep failed: <no data>"]},
    ]
    text = write_night_page(tmp_path, results).read_text()
    assert "the sweep failed: &lt;no data&gt;" in text
    assert "digits, l2" in text
    assert "<td>a</td>" in text
    assert f"Night {tmp_path.name}" in text


def test_night_of_failed_sweeps_has_a_page(tmp_path: Path) -> None:
    text = write_night_page(tmp_path, [{"preset": "mnist", "regressions": ["the sweep failed: x"]}]).read_text()
    assert "the sweep failed: x" in text
    assert "There is no entry." in text
