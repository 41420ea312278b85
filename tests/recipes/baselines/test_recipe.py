"""Trainings of baselines that are killed, diverge, collapse or do not fit the data set."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.baselines import TRAINED, open_workspace
from otad_ray.data import load_all
from otad_ray.errors import InputError
from otad_ray.presets import find_preset
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.recipe import ensure_baseline, explain_collapse
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import TrainingStore
from otad_ray.training.loop import minimize


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", TRAINED)
def test_killed_training_goes_on_to_the_same_weights(name: str, workspace: Workspace, tmp_path: Path) -> None:
    training = BASELINES[name].training
    assert training is not None
    settings = replace(training.settings["digits"], epochs=3, batch_size=32)
    rows = load_all(workspace.rows("test"))
    x, y = rows.x[:70], rows.y[:70]
    needed = {"classifier": ensure_backbone(workspace).network} if training.needs_net else {}

    def train(store: TrainingStore, kill_after: int) -> dict[str, Tensor]:
        def kill(metrics) -> None:
            if metrics.epoch == kill_after:
                raise KilledError

        torch.manual_seed(0)
        network = training.build(settings, (1, 8, 8), 10)
        minimize(training.problem(network, x, y, settings, **needed), settings, on_epoch=kill, store=store)
        return network.state_dict()

    whole = train(TrainingStore(tmp_path / "whole"), 0)
    with pytest.raises(KilledError):
        train(TrainingStore(tmp_path / "killed"), 2)
    resumed = train(TrainingStore(tmp_path / "killed"), 0)
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)


@pytest.fixture(scope="module")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """64 digits, and trainings whose steps are far too long."""
    # The loss of an l_inf-distance net grows with its weights alone, and is infinite only near the largest float32.
    changes = ("epochs=2", "batch_size=16", "learning_rate=1e37")
    settings = tuple(f"{name}.{change}" for name in TRAINED for change in changes)
    training = replace(find_preset("digits").training, epochs=1)
    root = tmp_path_factory.mktemp("diverged")
    return open_workspace(root, train_rows=64, training=training, defense_settings=settings)


@pytest.mark.parametrize("name", TRAINED)
def test_diverged_training_names_epoch_and_loss_and_saves_nothing(name: str, few_rows: Workspace) -> None:
    message = r"training diverged: the training loss is -?(nan|inf) in epoch \d; lower learning_rate \(1e\+37\)"
    with pytest.raises(InputError, match=message):
        ensure_baseline(few_rows, name)
    folder = few_rows.root / few_rows.preset.name / "baseline"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("preset", "name", "reason"),
    [
        ("citeseq_cbmc", "median_filter", "images"),
        ("citeseq_cbmc", "diffpure", "images"),
        ("wine_quality_red", "linf_dist", "regression"),
        ("wine_quality_red", "nearest_neighbor", "regression"),
    ],
)
def test_data_set_that_does_not_fit_is_refused_before_anything_is_trained(
    preset: str, name: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"defense '{name}' does not fit data set '{preset}': .*{reason}"):
        find_defenses(open_workspace(tmp_path, preset), (name,))
    assert not any(path.is_dir() for path in (tmp_path / preset).glob("*"))


def test_collapsed_training_is_saved_and_said(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path, defense_settings=("fgsm_at.eps=0.3",))
    ensure_baseline(workspace, "fgsm_at")
    warning = explain_collapse(workspace, "fgsm_at")
    assert warning is not None
    assert "collapsed" in warning
