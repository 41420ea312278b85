"""Nights on digits: a good one, the same again, and one with a planted regression that is named."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from helpers.digits_jobs import quick_preset
from otad_ray.errors import InputError
from otad_ray.jobs.cli import check_main
from otad_ray.jobs.nightly_sweep import EXPERIMENT, NightlyConfig, _last_good, run_nightly, sweep_presets
from otad_ray.presets import Preset
from otad_ray.tracking import default_tracking_uri


def config(storage: Path, night: str, **fields) -> NightlyConfig:
    defaults = {"attacks": ("noise", "neighbor_aware"), "defense": ("otad", "net"), "eps": (0.5,), "samples": 100}
    return NightlyConfig(**{"storage": str(storage), "night": night, "num_actors": 2, **defaults, **fields})


def untrained(preset: Preset) -> Preset:
    return replace(preset, training=replace(preset.training, epochs=1, learning_rate=1e-6))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_planted_regression_is_named_and_never_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = sweep_presets(config(tmp_path, "first"), [quick_preset()])
    assert first["regressions"] == []
    assert first["presets"][0]["compared_with"] is None
    bad = sweep_presets(config(tmp_path, "bad"), [untrained(quick_preset())])
    assert bad["presets"][0]["compared_with"] == first["presets"][0]["run_id"]
    assert any(name.startswith("digits: otad: standard accuracy went from") for name in bad["regressions"])
    assert "REGRESSION digits: otad: standard accuracy" in capsys.readouterr().err
    runs = mlflow.MlflowClient(tracking_uri=bad["tracking_uri"])
    assert runs.get_run(bad["presets"][0]["run_id"]).data.tags["otad.good"] == "false"
    third = sweep_presets(config(tmp_path, "third"), [quick_preset()])
    assert third["regressions"] == []
    assert third["presets"][0]["compared_with"] == first["presets"][0]["run_id"]
    assert {path.name for path in (tmp_path / "nightly").iterdir()} == {"first", "bad", "third"}
    with pytest.raises(InputError, match=r"first is finished.*give another --night"):
        sweep_presets(config(tmp_path, "first"), [quick_preset()])


def test_the_job_ends_with_2_on_a_regression_and_with_1_on_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(given: NightlyConfig) -> dict:
        raise InputError("nothing there")

    monkeypatch.setattr("sys.argv", ["nightly_sweep.py", "--samples", "50"])
    outcomes = {
        "good": lambda given: {"regressions": []},
        "bad": lambda given: {"regressions": ["x"]},
        "refused": refuse,
    }
    codes = {}
    for name, run in outcomes.items():
        try:
            check_main(NightlyConfig, run, description="A job.", failed=lambda result: bool(result["regressions"]))
            codes[name] = 0
        except SystemExit as end:
            codes[name] = end.code
    assert codes == {"good": 0, "bad": 2, "refused": 1}
    assert '{"regressions": ["x"]}' in capsys.readouterr().out


def test_an_option_that_does_not_exist_is_no_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nightly_sweep.py", "--sampels", "50"])
    with pytest.raises(SystemExit) as end:
        check_main(NightlyConfig, run_nightly, description="A job.", failed=bool)
    assert end.value.code == 1


def test_bad_input_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown preset 'digit'"):
        run_nightly(config(tmp_path, "a", presets=("digit",)))
    with pytest.raises(InputError, match="unknown attack 'pdg'"):
        config(tmp_path, "a", attacks=("pdg",))
    with pytest.raises(InputError, match="defense must name 'net'"):
        config(tmp_path, "a", defense=("otad",))
    with pytest.raises(InputError, match="night must be the name of a folder, got 'a/b'"):
        config(tmp_path, "a/b")
    with pytest.raises(InputError, match="nights compare classifiers"):
        run_nightly(config(tmp_path, "a", presets=("wine_quality_red",)))


def test_a_night_whose_experiment_was_deleted_says_that_it_was_not_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = default_tracking_uri(None, tmp_path)
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    found, reason = _last_good(uri, {"otad.kind": "nightly"}, tmp_path, tmp_path)
    assert found is None
    assert reason is not None
    assert "experiment 'nightly' was deleted" in reason
    assert f"not compared: {reason}" in caplog.text
