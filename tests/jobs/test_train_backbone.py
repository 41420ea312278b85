"""The training job on Ray Train: the backbone of the plain loop, whatever the workers and whoever is killed."""

import json
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch

from helpers.digits_jobs import ROWS, descendants, is_running, job_command, quick_preset, wait_for
from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.jobs.train_backbone import run_backbone_training
from otad_ray.locks import one_at_a_time
from otad_ray.models import Backbone, build_backbone, load_backbone
from otad_ray.options import JobConfig, TrainJobConfig
from otad_ray.presets import Preset
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import EpochMetrics, accuracy, train_backbone


def plain_training(preset: Preset) -> tuple[Backbone, list[EpochMetrics]]:
    """The reference: no Ray, no interruption."""
    train = load_all(open_split(data_set("digits"), "train"))
    torch.manual_seed(preset.training.seed)
    backbone = build_backbone(preset.backbone, shape=(64,), num_outputs=10)
    history: list[EpochMetrics] = []
    return train_backbone(backbone, train.x, train.y, preset.training, on_epoch=history.append), history


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(180)
def test_two_workers_train_the_backbone_of_the_plain_loop(tmp_path: Path) -> None:
    config = TrainJobConfig(preset=quick_preset(), storage=str(tmp_path), num_workers=2)
    result = run_backbone_training(config)
    expected, history = plain_training(config.preset)
    found = load_backbone(Path(result["backbone"]))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    assert result["rows"] == ROWS
    test = load_all(open_split(data_set("digits"), "test"))
    assert result["test_accuracy"] == pytest.approx(accuracy(found, test.x, test.y))
    assert result["loss"] == pytest.approx(history[-1].loss, rel=1e-4)
    # Nothing of the training is left beside the backbone.
    assert [str(path) for path in (tmp_path / "digits" / "backbone").iterdir()] == [result["backbone"]]
    assert run_backbone_training(config) == result

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    points = client.get_metric_history(run.info.run_id, "epoch_loss")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([epoch.loss for epoch in history], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_diverge_say_so_once(tmp_path: Path) -> None:
    preset = replace(quick_preset(), training=replace(quick_preset().training, learning_rate=1e6))
    with pytest.raises(InputError, match=r"training diverged.*lower learning_rate"):
        run_backbone_training(TrainJobConfig(preset=preset, storage=str(tmp_path), num_workers=2))
    assert not list(tmp_path.glob("digits/backbone/*"))


def test_training_that_diverges_says_what_to_change(tmp_path: Path) -> None:
    preset = replace(quick_preset(), training=replace(quick_preset().training, learning_rate=1e6))
    with pytest.raises(InputError, match=r"training diverged.*lower learning_rate"):
        ensure_backbone(Workspace(JobConfig(preset=preset, storage=str(tmp_path))))
    assert not list(tmp_path.glob("digits/backbone/*"))


def test_no_workers_and_no_checkpoints_are_refused() -> None:
    for name in ("num_workers", "checkpoint_every"):
        with pytest.raises(InputError, match=f"need {name} >= 1, got 0"):
            TrainJobConfig(**{"preset": quick_preset(), name: 0})


def test_a_job_waits_for_another_that_trains_the_same_backbone(tmp_path: Path) -> None:
    lock = tmp_path / "backbone.lock"
    entered, order = threading.Event(), []

    def wait() -> None:
        entered.set()
        with one_at_a_time(lock):
            order.append("second")

    with one_at_a_time(lock):
        other = threading.Thread(target=wait)
        other.start()
        entered.wait()
        order.append("first")
    other.join(timeout=10)
    assert order == ["first", "second"]
    assert not lock.exists()


EPOCHS = 60


def start(job: str, storage: Path, log: Path, *options: str) -> subprocess.Popen:
    command = job_command(job, "--training.epochs", str(EPOCHS), "--storage", str(storage), *options)
    with log.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def newest_state(storage: Path) -> int:
    found = storage.glob("digits/backbone/*.training/epoch-*.safetensors")
    return max((int(path.stem.removeprefix("epoch-")) for path in found), default=0)


def workers(driver: int) -> list[int]:
    return [process for process, title in descendants(driver).items() if "RayTrainWorker" in title]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("job", "options"),
    [
        # A job that trains in its own process, which starts sooner, leaves the same states.
        pytest.param("build_memory.py", (), marks=pytest.mark.slow),
        pytest.param("train_backbone.py", ("--num-workers", "2"), marks=pytest.mark.slow),
    ],
)
def test_driver_and_then_a_worker_are_killed(job: str, options: tuple[str, ...], tmp_path: Path) -> None:
    driver = start(job, tmp_path, tmp_path / "first.log", *options)
    wait_for(lambda: newest_state(tmp_path) >= 2, 90)
    orphans = workers(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    wait_for(lambda: not any(is_running(process) for process in orphans), 60)
    kept = newest_state(tmp_path)
    assert 2 <= kept < EPOCHS

    log = tmp_path / "second.log"
    driver = start("train_backbone.py", tmp_path, log, "--num-workers", "2")
    wait_for(lambda: newest_state(tmp_path) > kept, 90)
    os.kill(workers(driver.pid)[0], signal.SIGKILL)
    assert driver.wait(timeout=120) == 0, log.read_text()[-3000:]
    assert log.read_text().count("going on after epoch") == 2

    result = json.loads(log.read_text().splitlines()[-1])
    preset = quick_preset()
    _, expected = plain_training(replace(preset, training=replace(preset.training, epochs=EPOCHS)))
    history = json.loads((Path(result["backbone"]) / "manifest.json").read_text())["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, EPOCHS + 1))
    assert [epoch["loss"] for epoch in history] == pytest.approx([epoch.loss for epoch in expected], rel=1e-2)
    assert not list(tmp_path.glob("digits/backbone/*.training"))
