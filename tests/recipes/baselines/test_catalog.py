"""Every baseline on digits: it learns, keeps its property, survives save and load, and is refused where it misfits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from otad_ray.certification import certified_linf_radius, certified_radius
from otad_ray.data import load_all
from otad_ray.defenses.randomness import is_random
from otad_ray.errors import InputError
from otad_ray.options import JobConfig
from otad_ray.presets import find_preset
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.recipe import ensure_baseline, explain_collapse
from otad_ray.recipes.defenses import expand_names, find_defenses
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import TrainingStore
from otad_ray.training.loop import minimize

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
# How often the certificate of each must hold, and by how much a planted factor must make it wrong.
CERTIFIED = ("linf_dist", "soc_plus", "nearest_neighbor", "smoothing")


def open_workspace(root: Path, preset: str = "digits", **changes: object) -> Workspace:
    return Workspace(JobConfig(preset=replace(find_preset(preset), **changes), storage=str(root)))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    found = open_workspace(tmp_path_factory.mktemp("baselines"), defense_settings=QUICK)
    return found.vary(replace(found.preset, training=replace(found.preset.training, epochs=8)))


@pytest.fixture(scope="module")
def held_out(workspace: Workspace) -> tuple[Tensor, Tensor]:
    batch = load_all(workspace.rows("test"))
    return batch.x, batch.y


def answer(defense: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return defense(x)


def test_every_baseline_has_a_floor() -> None:
    assert FLOORS.keys() == BASELINES.keys()


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_learns_and_is_the_same_when_loaded(name: str, workspace: Workspace, held_out) -> None:
    x, y = held_out
    source = find_defenses(workspace, (name,))[name]
    assert float((answer(source.open(), x).argmax(1) == y).float().mean()) >= FLOORS[name]
    # A workspace that knows nothing of the first one reads what it saved, and trains nothing.
    again = Workspace(JobConfig(preset=workspace.preset, storage=str(workspace.root), build=False))
    other = find_defenses(again, (name,))[name]
    assert other.fingerprint == source.fingerprint
    torch.testing.assert_close(answer(other.open(), x[:20]), answer(source.open(), x[:20]), rtol=0, atol=0)


@pytest.mark.parametrize("name", CERTIFIED)
def test_certificates_hold_and_a_planted_factor_is_caught(name: str, workspace: Workspace, held_out) -> None:
    defense = find_defenses(workspace, (name,))[name].open()
    count = 25 if is_random(defense) else 100
    x, y = held_out[0][:count], held_out[1][:count]
    norm = "linf" if name == "linf_dist" else "l2"
    certificate = certified_radius(defense, x) if norm == "l2" else certified_linf_radius(defense, x)
    assert certificate is not None
    radius = certificate.radius
    proven = (answer(defense, x).argmax(1) == y) & (radius > 0)
    assert proven.float().mean() > 0.5
    assert not bool((is_broken(defense, x, y, radius * (1 - 1e-3), norm) & proven).any())
    assert bool((is_broken(defense, x, y, radius * 1.5, norm) & proven).any())


def is_broken(defense: nn.Module, x: Tensor, y: Tensor, radius: Tensor, norm: str, steps: int = 12) -> Tensor:
    """Which samples (B,) gradient steps within a radius (B,) of their own get misclassified."""
    size = radius.float().view(-1, 1, 1, 1)
    moved, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    torch.manual_seed(0)
    for step in range(steps):
        point = moved.requires_grad_()
        logits = defense(point)
        # A random defense is judged once: of many draws some would err.
        broken |= (logits.argmax(1) != y) & (not is_random(defense))
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((others - logits.gather(1, y.unsqueeze(1)).squeeze(1)).sum(), point)
        length = size * (1 - step / steps)
        if norm == "linf":
            moved = x + (moved.detach() + length * gradient.sign() - x).clamp(-size, size)
        else:
            delta = moved.detach() + length * gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(
                -1, 1, 1, 1
            )
            delta = delta - x
            moved = x + delta * (size / delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)).clamp(max=1)
    return broken | (answer(defense, moved).argmax(1) != y)


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


def test_all_stands_for_the_defenses_that_fit(tmp_path: Path) -> None:
    names = expand_names(open_workspace(tmp_path), ("all",))
    assert set(BASELINES) < set(names)
    assert {"otad", "otad_nn", "knn", "net"} < set(names)
    tables = expand_names(open_workspace(tmp_path, "citeseq_cbmc"), ("net", "all"))
    assert tables.count("net") == 1
    assert "pgd_at" in tables
    assert "median_filter" not in tables


def test_collapsed_training_is_saved_and_said(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path, defense_settings=("fgsm_at.eps=0.3",))
    ensure_baseline(workspace, "fgsm_at")
    warning = explain_collapse(workspace, "fgsm_at")
    assert warning is not None
    assert "collapsed" in warning
