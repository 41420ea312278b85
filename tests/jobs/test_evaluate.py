"""The evaluation job: accuracies that can be recomputed from the saved defenses."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from helpers.digits_jobs import quick_preset
from otad_ray.cip import Status
from otad_ray.data import data_set, load_all, open_split
from otad_ray.defenses import OTAD, load_defense
from otad_ray.errors import InputError
from otad_ray.evaluation import StandardMetrics, relative_error
from otad_ray.evaluation.records.standard import NO_PREDICTION
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
from otad_ray.training import accuracy

NAMES = {"knn": "knn", "undefended": "net"}


def config(storage: Path, **fields) -> EvaluateConfig:
    return EvaluateConfig(**{"preset": quick_preset(), "storage": str(storage), "local": True, **fields})


def test_accuracies_are_those_of_the_saved_defenses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_evaluation(config(tmp_path, rows_per_shard=100))
    assert result["rows"] == 360
    assert result["share_unsolved"] == 0
    test = load_all(open_split(data_set("digits"), "test"))
    defenses = [load_defense(path) for path in (tmp_path / "digits" / "defenses").iterdir()]
    found = {}
    for defense in defenses:
        name = f"otad_{defense.config.cross_term}" if isinstance(defense, OTAD) else NAMES[defense.kind]
        found[name] = float((defense(test.x).argmax(1) == test.y).double().mean())
    backbone = defenses[0].backbone
    assert found["net"] == accuracy(backbone, test.x, test.y)
    assert set(found) == {"net", "knn", "otad_theory", "otad_released"}
    table = capsys.readouterr().err
    for name, value in found.items():
        assert result[f"accuracy_{name}"] == pytest.approx(value)
        assert f"{100 * value:.2f} %" in table
    theory = next(item for item in defenses if isinstance(item, OTAD) and item.config.cross_term == "theory")
    with torch.no_grad():
        solution = theory.integrate(test.x)[1]
        errors = relative_error(backbone.features(test.x.flatten(1)), solution.feature)
    assert result["relative_error"] == pytest.approx(float(errors.mean()), rel=1e-5)
    relaxed = (solution.status == Status.RELAXED).double().mean()
    assert result["share_relaxed"] == pytest.approx(float(relaxed))
    again = run_evaluation(config(tmp_path))
    assert again == result


def test_validation_rows_must_not_be_in_the_memory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--training\.rows fit"):
        run_evaluation(config(tmp_path, split="validation"))
    preset = quick_preset()
    honest = replace(preset, training=replace(preset.training, rows="fit"))
    result = run_evaluation(config(tmp_path, split="validation", preset=honest))
    assert result["rows"] == 143


def test_bad_input_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neighbors must be at most 1436"):
        run_evaluation(config(tmp_path, preset=quick_preset(neighbors=1437)))
    assert not list(tmp_path.glob("digits/*"))


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'dev'"):
        run_evaluation(config(tmp_path, split="dev"))


def test_statuses_and_failed_rows_are_counted_apart() -> None:
    statuses = ["solved", "relaxed", "relaxed", "infeasible", "failed"]
    table = pa.table(
        {
            "label": [0, 1, 1, 1, 1],
            "prediction_otad": [0, 1, 0, 1, NO_PREDICTION],
            "relaxations": [0, 3, 1, 100, 0],
            "relative_error": [0.0, 0.1, 0.2, 0.3, 0.4],
            "status": statuses,
        }
    )
    totals = StandardMetrics()
    totals.add(table)
    totals.add(table)
    assert totals.metrics() == pytest.approx(
        {
            "accuracy_otad": 0.6,
            "relative_error": 0.2,
            "share_relaxed": 0.4,
            "share_infeasible": 0.2,
            "share_unsolved": 0.2,
        }
    )


def test_squared_errors_are_of_rows_with_a_prediction() -> None:
    table = pa.table(
        {
            "label": pa.array([1.0, 2.0, 3.0], pa.float32()),
            "prediction_net": [1.0, 2.0, 5.0],
            "prediction_otad": [2.0, 4.0, float("nan")],
            "relative_error": [0.0, 0.0, 0.3],
            "status": ["solved", "solved", "failed"],
        }
    )
    totals = StandardMetrics()
    totals.add(table)
    totals.add(table)
    metrics = totals.metrics()
    assert metrics["mse_net"] == pytest.approx(4 / 3)
    assert metrics["mse_otad"] == pytest.approx(2.5)
    assert metrics["share_unsolved"] == pytest.approx(1 / 3)
    assert not any(name.startswith("accuracy") for name in metrics)


def test_no_prediction_at_all_has_no_squared_error() -> None:
    totals = StandardMetrics()
    labels = pa.array([1.0], pa.float32())
    totals.add(
        pa.table(
            {"label": labels, "prediction_otad": [float("nan")], "relative_error": [0.1], "status": ["interrupted"]}
        )
    )
    assert "mse_otad" not in totals.metrics()
    assert totals.metrics()["share_unsolved"] == 1
