"""The job that trains a baseline, and the list of defenses, on the command line."""

import json

import pytest

from otad_ray.jobs import defenses
from otad_ray.jobs.cli import run_job
from otad_ray.recipes.defenses import NAMES


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        run_job("train_defense", arguments, prog="otad train-defense")
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_baseline_is_trained_once(tmp_path, capsys) -> None:
    command = ["linf_dist", "digits", "--local", "--storage", str(tmp_path), "--train-rows", "100"]
    command += ["--defense-settings", "linf_dist.epochs=2", "linf_dist.width=8"]
    code, out, _ = run(command, capsys)
    assert code == 0
    summary = json.loads(out.splitlines()[-1])
    assert summary["rows"] == 100
    again = run([*command, "--no-build"], capsys)
    assert json.loads(again[1].splitlines()[-1])["baseline"] == summary["baseline"]
    # Other settings are another network.
    code, _, err = run([*command[:-1], "linf_dist.width=9", "--no-build"], capsys)
    assert code == 2
    assert "no network of linf_dist" in err
    assert "train_defense" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the defense first, such as: otad train-defense DEFENSE PRESET"),
        (["--local"], "name the defense first"),
        (["pgd", "digits"], "unknown defense 'pgd'; known: pgd_at"),
        (["median_filter", "digits"], "has nothing to train; those that are trained: pgd_at"),
        (["stl", "wine_quality_red"], "does not fit data set 'wine_quality_red': it needs images"),
        (["pgd_at", "digits", "--defense-settings", "pgd_at.eps=-1"], "need a finite eps >= 0"),
        (
            ["soc_plus", "digits", "--defense-settings", "soc_plus.precision=bfloat16"],
            "of soc_plus: need precision = float32",
        ),
        (["linf_dist", "digits", "--defense-settings", "linf_dist.precision=bfloat16"], "of linf_dist: need precision"),
        (["pgd_at", "nothing"], "unknown preset 'nothing'"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    arguments: list[str], message: str, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("OTAD_STORAGE", str(tmp_path))
    code, out, err = run([*arguments, *(["--local"] if len(arguments) > 1 else [])], capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_defenses_are_listed_with_their_papers(capsys) -> None:
    assert defenses.main([], prog="otad defenses") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == list(NAMES)
    assert defenses.main(["stl"], prog="otad defenses") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Sun et al. 2019" in out
    assert "otad train-defense stl PRESET" in out
    assert defenses.main(["nothing"], prog="otad defenses") == 2
    assert "unknown defense 'nothing'" in capsys.readouterr().err
