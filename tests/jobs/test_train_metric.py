"""The training jobs of metric nets and CIP-nets: what they refuse, and Ray Train."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.transformer_jobs import only_cip_net, only_metric, preset
from otad_ray.errors import InputError
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.jobs.evaluate import EvaluateConfig
from otad_ray.jobs.train_cip_net import CipNetJobConfig, run_cip_net_training
from otad_ray.jobs.train_metric import run_metric_training
from otad_ray.models import MetricNetConfig
from otad_ray.options import JobConfig, TrainJobConfig
from otad_ray.presets import PRESETS, Preset
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import ensure_metric
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.config import SweepConfig


def test_bad_input_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def job(asked: Preset) -> JobConfig:
        return TrainJobConfig(preset=asked, storage=str(tmp_path), local=True)

    digits = PRESETS["digits"]
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for asked, message in [
        (digits, "has no metric net .* give one with --metric.architecture"),
        (preset(metric=MetricNetConfig(architecture="resnet18")), r"resnet18.*\(1, 8, 8\)"),
        (
            replace(PRESETS["cifar10_vit"], metric=MetricNetConfig(architecture="resnet18")),
            "starts from published weights: give their .safetensors file with --metric.weights",
        ),
        (replace(PRESETS["wine_quality_red"], metric=MetricNetConfig(architecture="cnn")), "is a regression"),
        (
            replace(PRESETS["cifar10_vit"], metric=MetricNetConfig(architecture="resnet18", weights="nowhere.pth")),
            r"metric.weights is /.*/nowhere\.pth, which is no file",
        ),
        (
            replace(PRESETS["cifar10_vit"], metric=MetricNetConfig(architecture="resnet18", weights=str(empty))),
            r"empty\.safetensors cannot be read as safetensors",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            run_metric_training(job(asked))
    with pytest.raises(InputError, match=r"needs images .* got samples of \(11,\)"):
        ensure_memory(Workspace(job(replace(PRESETS["wine_quality_red"], backbone=preset().backbone))))
    for options in ({"otad_nn": False}, {}):
        with pytest.raises(InputError, match="cip_net_directory is somewhere, but OTAD-T-NN is not asked for"):
            EvaluateConfig(preset=preset(), cip_net_directory="somewhere", **options)
    with pytest.raises(InputError, match="is not asked for; add --defense otad_nn"):
        SweepConfig(preset=preset(), cip_net_directory="somewhere")
    with pytest.raises(InputError, match="of fc_resnet only; the backbone is 'vit'"):
        run_attack_sweep(SweepConfig(preset=preset(), storage=str(tmp_path), defense=("plain_net",), local=True))
    with pytest.raises(InputError, match="is no labels directory"):
        run_cip_net_training(
            CipNetJobConfig(preset=preset(), storage=str(tmp_path), labels=str(tmp_path / "nowhere"), local=True)
        )
    sweep = SweepConfig(preset=digits, storage=str(tmp_path), attacks=("dml_pgd",), local=True)
    with pytest.raises(InputError, match="attacks the metric net, and preset 'digits' has none"):
        run_attack_sweep(sweep)
    with pytest.raises(InputError, match=r"make it with: python jobs/train_metric\.py digits_vit"):
        ensure_metric(Workspace(JobConfig(preset=preset(), storage=str(tmp_path), build=False)))
    assert not list(tmp_path.glob("digits_vit/*/*"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(240)
def test_ray_train_learns_what_the_plain_loop_learns(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """Metric net and CIP-net on two workers, whose keys and labels travel through Ray Data."""
    options = TrainJobConfig(preset=preset(), storage=str(tmp_path), num_workers=2)
    metric = run_metric_training(options)
    assert metric["loss"] == pytest.approx(only_metric(storage)["metrics"]["loss"], rel=1e-2)
    cip_net = run_cip_net_training(
        CipNetJobConfig(preset=preset(), storage=str(storage / ".." / "again"), num_workers=2)
    )
    expected = only_cip_net(storage, "simplex")
    assert cip_net["held_out_error_to_mean"] == pytest.approx(expected["metrics"]["held_out_error_to_mean"], rel=0.2)
