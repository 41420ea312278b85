"""A storage root with the net of digits, which several files of tests go on from."""

import shutil
from pathlib import Path

import pytest

from helpers.baselines import open_quick_workspace
from otad_ray.locks import one_at_a_time
from otad_ray.recipes.defenses import KNN_NAME, save_defense
from otad_ray.recipes.workspace import Workspace


@pytest.fixture(scope="session")
def _net_trained_once(shared_folder: Path) -> Path:
    """A storage root with the net, its memory and KNN, made once for all processes of the run."""
    root = shared_folder / "baselines"
    with one_at_a_time(root.with_suffix(".lock")):
        if not (root / "made").exists():
            save_defense(open_quick_workspace(root), KNN_NAME)
            (root / "made").touch()
    return root


@pytest.fixture(scope="module")
def workspace(_net_trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of the module's own, with the net in it, whose trainings are short."""
    root = shutil.copytree(_net_trained_once, tmp_path_factory.mktemp("baselines") / "root")
    return open_quick_workspace(root)
