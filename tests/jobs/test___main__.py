"""The command `otad`: its list of jobs, its version, its completion, and its exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

import otad_ray
from otad_ray.jobs.__main__ import main
from otad_ray.jobs.table import COMMANDS, JOBS, read_description


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `otad` in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["otad", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_job_with_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, module in {**{name: job.module for name, job in JOBS.items()}, **COMMANDS}.items():
        summary = read_description(module).splitlines()[0]
        assert f"  {name.replace('_', '-'):<18}{summary}" in lines


def test_help_imports_neither_torch_nor_ray() -> None:
    script = (
        "import sys; from otad_ray.jobs.__main__ import main; sys.argv = ['otad']; main(); "
        "sys.exit(', '.join({'torch', 'ray', 'mlflow', 'tyro'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"otad_ray {otad_ray.__version__}\n"


def test_unknown_job_ends_with_two_and_lists_the_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "lable-qcp") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: unknown job 'lable-qcp'; known: evaluate, ")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("label-qcp", "minst"), 2, "error: unknown preset 'minst'"),
        (("label_qcp", "--neighbors", "0"), 2, "error: need neighbors >= 1, got 0"),
        (("nightly-sweep", "--presets", "minst"), 1, "error: unknown preset 'minst'"),
        (("submit", "minst"), 1, "error: unknown job 'minst'"),
        (("--tyro-print-completion", "csh"), 2, "one of bash, zsh, tcsh, fish, got 'csh'"),
        (("--tyro-write-completion", "bash", "/nowhere/otad"), 2, "/nowhere/otad cannot be written"),
        (("write-deployment", "/proc/otad"), 2, "/proc/otad cannot be written"),
    ],
)
def test_bad_input_has_the_exit_code_of_the_job(
    arguments: tuple[str, ...],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("OTAD_STORAGE", str(tmp_path))
    assert run(monkeypatch, *arguments) == code
    assert told in capsys.readouterr().err


def test_help_of_a_job_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run(monkeypatch, "label-qcp", "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: otad label-qcp [digits|mnist|")
    assert read_description(JOBS["label_qcp"].module).splitlines()[0] in shown
    assert run(monkeypatch, "submit", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: otad submit ")


def test_completion_offers_jobs_and_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "otad.bash"
    assert run(monkeypatch, "--tyro-write-completion", "bash", str(script)) == 0
    for words, offered in {
        ("otad", "lab"): "label-qcp",
        ("otad", "write"): "write-deployment",
        ("otad", "label-qcp", "mnist", "--neigh"): "--neighbors",
        ("otad", "attack-sweep", "--norm", "li"): "linf",
    }.items():
        command = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _tyro_otad otad; "
        command += 'echo "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [offered]
