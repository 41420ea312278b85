"""The command-line contract: presets, options, errors without tracebacks, one JSON line."""

import json
import sys
from pathlib import Path

import pytest

from otad_ray.errors import InputError, RetryableError
from otad_ray.jobs.cli import main, parse
from otad_ray.jobs.label_qcp import LabelJobConfig
from otad_ray.recipes.workspace import Workspace


def test_presets_and_options() -> None:
    config = parse(LabelJobConfig, [], description="")
    assert (config.preset.name, config.preset.integration.solver, config.search) == ("digits", "dual", "torch")
    config = parse(
        LabelJobConfig,
        ["mnist", "--neighbors", "5", "--solver", "clarabel", "--regularity.smoothness", "3", "--no-build", "--dense"],
        description="",
    )
    assert config.preset.name == "mnist"
    assert config.preset.integration.num_neighbors == 5
    assert config.preset.integration.solver == "clarabel"
    assert config.preset.integration.regularity.smoothness == 3
    assert config.dense
    assert not config.build


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["minst"], "unknown preset 'minst'; known: digits, mnist"),
        (["--data-set", "minst"], "unknown data set 'minst'; known: digits, mnist"),
        (["--solver", "simplex"], "unknown solver 'simplex'; known: dual, mosek, clarabel"),
        (["--search", "hnsw"], "unknown search 'hnsw'; known: torch, faiss"),
        (["--faiss-index", "HNSW32"], "--faiss-index and --approximate are for FAISS: add --search faiss"),
        (["--approximate"], "--faiss-index and --approximate are for FAISS: add --search faiss"),
        (["--cross-term", "paper"], "theory"),
        (["--neighbors", "0"], "need neighbors >= 1, got 0"),
        (["--regularity.smoothness", "0"], "need smoothness > 0, got 0"),
        (["--regularity.strong-convexity", "2"], "need strong_convexity"),
        (["--backbone.architecture", "vgg"], "known: fc_resnet, fc_plain"),
        (["--neighbours", "5"], "--neighbors"),
        (["--num-actors", "1000"], "num_actors is 1000"),
        (["--rows-per-shard", "0"], "need rows_per_shard >= 1, got 0"),
        (["--storage", "/proc/otad"], "cannot be written"),
        (["--address", "127.0.0.1:9"], "no Ray cluster answers at '127.0.0.1:9'"),
    ],
)
def test_bad_options_end_with_two_and_say_why(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from otad_ray.jobs.label_qcp import run_label_job

    monkeypatch.setattr(sys, "argv", ["label_qcp.py", *arguments])
    monkeypatch.setenv("COLUMNS", "300")
    # Jobs use a session that is open, and other tests of this process may have opened one.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(LabelJobConfig, run_label_job, description="")
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    assert "Traceback" not in captured.err


def test_the_last_line_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["label_qcp.py"])
    main(LabelJobConfig, lambda config: {"rows": 3, "preset": config.preset.name}, description="")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 3, "preset": "digits"}


def test_an_error_keeps_its_traceback_if_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: LabelJobConfig) -> dict:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["label_qcp.py"])
    with pytest.raises(ZeroDivisionError):
        main(LabelJobConfig, fail, description="")


def test_retryable_error_ends_with_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(config: LabelJobConfig) -> dict:
        raise RetryableError("the disk is full")

    monkeypatch.setattr(sys, "argv", ["label_qcp.py"])
    with pytest.raises(SystemExit) as stop:
        main(LabelJobConfig, full, description="")
    assert stop.value.code == 1
    assert capsys.readouterr().err.strip() == "error: the disk is full"


def test_control_c_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: LabelJobConfig) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["label_qcp.py"])
    with pytest.raises(SystemExit) as stop:
        main(LabelJobConfig, interrupted, description="")
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_storage_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTAD_STORAGE", str(tmp_path / "a"))
    workspace = Workspace(parse(LabelJobConfig, [], description=""))
    assert workspace.root == tmp_path / "a"
    assert workspace.tracking_uri == f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}"
    options = ["--storage", str(tmp_path / "b"), "--tracking-uri", "http://host:5000"]
    workspace = Workspace(parse(LabelJobConfig, options, description=""))
    assert (workspace.root, workspace.tracking_uri) == (tmp_path / "b", "http://host:5000")
    with pytest.raises(InputError, match="cannot be written"):
        Workspace(parse(LabelJobConfig, ["--storage", "/proc/otad"], description=""))
