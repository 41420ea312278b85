"""Every baseline on digits, trained shortly: what it must reach, and how that is checked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from otad_ray.artifacts import read_manifest
from otad_ray.data import load_all
from otad_ray.defenses.randomness import is_random
from otad_ray.options import JobConfig
from otad_ray.presets import find_preset
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.recipe import BaselineRecipe
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace

# Short trainings: what is asserted does not need more.
QUICK = (
    "pgd_at.epochs=5",
    "pgd_at.steps=2",
    "pgd_at_l2.epochs=5",
    "pgd_at_l2.steps=2",
    "fgsm_at.epochs=6",
    "fgsm_at_random.epochs=6",
    "stl.epochs=12",
    "ape_gan.epochs=15",
    "diffpure.epochs=5",
    "linf_dist.epochs=12",
    "soc_plus.epochs=4",
    "smoothing.epochs=8",
)
# The least accuracy on held-out digits.
FLOORS = {
    "pgd_at": 0.8,
    "pgd_at_l2": 0.8,
    "fgsm_at": 0.8,
    "fgsm_at_random": 0.8,
    "median_filter": 0.7,
    "median_filter_2x2": 0.65,
    "stl": 0.9,
    "ape_gan": 0.8,
    "diffpure": 0.9,
    "linf_dist": 0.8,
    "soc_plus": 0.9,
    "nearest_neighbor": 0.95,
    "smoothing": 0.9,
}
TRAINED = [name for name, entry in BASELINES.items() if entry.training is not None]
CERTIFIED = ("linf_dist", "soc_plus", "nearest_neighbor", "smoothing")


def open_workspace(root: Path, preset: str = "digits", **changes: object) -> Workspace:
    return Workspace(JobConfig(preset=replace(find_preset(preset), **changes), storage=str(root)))


def open_quick_workspace(root: Path) -> Workspace:
    """Digits, with short trainings of the net and of every baseline."""
    return open_workspace(root, defense_settings=QUICK, training=replace(find_preset("digits").training, epochs=8))


def load_held_out(workspace: Workspace) -> tuple[Tensor, Tensor]:
    batch = load_all(workspace.rows("test"))
    return batch.x, batch.y


def answer(defense: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return defense(x)


def check_learned_and_loaded(name: str, workspace: Workspace) -> None:
    """Assert that a baseline learned, that its manifest says so, and that it is the same when it is loaded again."""
    x, y = load_held_out(workspace)
    source = find_defenses(workspace, (name,))[name]
    accuracy = float((answer(source.open(), x).argmax(1) == y).float().mean())
    assert accuracy >= FLOORS[name]
    if name in TRAINED:
        metrics = read_manifest(BaselineRecipe(workspace, BASELINES[name]).directory, kind="baseline")["metrics"]
        # The smoothed classifier is measured on single noisy copies.
        stated = metrics["test_noisy_accuracy" if name == "smoothing" else "test_accuracy"]
        assert stated == pytest.approx(accuracy, abs=0.1 if is_random(source.open()) else 1e-6)
    # A workspace that knows nothing of the first one reads what it saved, and trains nothing.
    again = Workspace(JobConfig(preset=workspace.preset, storage=str(workspace.root), build=False))
    other = find_defenses(again, (name,))[name]
    assert other.fingerprint == source.fingerprint
    torch.testing.assert_close(answer(other.open(), x[:20]), answer(source.open(), x[:20]), rtol=0, atol=0)
