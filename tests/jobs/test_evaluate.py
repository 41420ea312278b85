"""The evaluation job: accuracies that can be recomputed from the saved defenses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.digits_jobs import quick_preset
from otad_ray.cip import Status
from otad_ray.data import data_set, load_all, open_split
from otad_ray.defenses import OTAD, load_defense
from otad_ray.errors import InputError
from otad_ray.evaluation import relative_error
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
from otad_ray.training import accuracy

NAMES = {"knn": "knn", "undefended": "net"}


def config(storage: Path, **fields) -> EvaluateConfig:
    return EvaluateConfig(**{"preset": quick_preset(), "storage": str(storage), "local": True, **fields})


def test_accuracies_are_those_of_the_saved_defenses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_evaluation(config(tmp_path, rows_per_shard=100))
    assert result["rows"] == 360
    assert result["share_unsolved"] == 0
    page = Path(result["page"]).read_text()
    assert "<td>accuracy otad theory</td>" in page
    assert f'data-key="{result["accuracy_otad_theory"]}"' in page
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
        run_evaluation(config(tmp_path, preset=quick_preset(num_neighbors=1437)))
    assert not list(tmp_path.glob("digits/*"))


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'dev'"):
        run_evaluation(config(tmp_path, split="dev"))


def test_an_evaluation_of_an_earlier_version_is_moved_to_its_place(tmp_path: Path) -> None:
    result = run_evaluation(config(tmp_path))
    place = Path(result["evaluation"])
    earlier = tmp_path / "digits" / "sweeps" / place.name
    earlier.parent.mkdir()
    place.rename(earlier)
    before = {path.name: path.stat().st_mtime_ns for path in earlier.glob("shard-*")}
    assert run_evaluation(config(tmp_path)) == result
    assert {path.name: path.stat().st_mtime_ns for path in place.glob("shard-*")} == before
    assert not earlier.exists()
