"""Defenses by name and from a user's file: what is built, told apart, and refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from otad_ray.errors import InputError
from otad_ray.recipes.defense_source import DefenseSource
from otad_ray.recipes.defenses import _find_own, check_names
from otad_ray.recipes.user_module import _build_module, build_module

SHAPE = (1, 2, 2)

HELPER = "SCALE = {scale}\n"
MODULE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from {helper} import SCALE

@dataclass
class Settings:
    classes: int = 3

class Mine(torch.nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.register_buffer("small", torch.zeros(2, dtype=torch.bfloat16))
        self.settings = settings

    def forward(self, inputs):
        return SCALE * inputs.flatten(1)[:, : self.settings.classes]

def build():
    return Mine(Settings())

def unseeded():
    torch.seed()
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
"""


def write(directory: Path, scale: float, helper: str) -> str:
    (directory / f"{helper}.py").write_text(HELPER.format(scale=scale))
    (directory / "mine.py").write_text(MODULE.format(helper=helper))
    return str(directory / "mine.py")


@pytest.fixture(autouse=True)
def _surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otad_ray.recipes.defenses.save_defense", lambda workspace, name: "surrogate")


def own(location: str) -> DefenseSource:
    workspace: Any = SimpleNamespace(definition=SimpleNamespace(shape=SHAPE), search="torch")
    return _find_own(workspace, location)


def test_a_file_with_dataclasses_and_helpers_beside_it(tmp_path: Path) -> None:
    source = own(f"{write(tmp_path, 2.0, 'helper_one')}:build")
    assert source.name == "mine.build"
    assert torch.equal(source.open()(torch.ones(1, *SHAPE)), torch.full((1, 3), 2.0))


def test_fingerprint_changes_with_a_helper_that_neither_file_nor_state_show(tmp_path: Path) -> None:
    prints = []
    for scale in (2.0, 3.0):
        location = f"{write(tmp_path, scale, 'helper_two')}:build"
        prints.append(own(location).fingerprint)
    assert prints[0] != prints[1]


def test_a_module_that_is_another_in_every_process_is_refused(tmp_path: Path) -> None:
    source = own(f"{write(tmp_path, 2.0, 'helper_four')}:unseeded")
    _build_module.cache_clear()
    with pytest.raises(InputError, match="built another module here than before; seed it or load its weights"):
        source.open()


def test_a_module_that_eval_does_not_return_is_served(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Silent(torch.nn.Flatten):\n    def train(self, mode=True): super().train(mode)\n"
        "class Stuck(torch.nn.Flatten):\n    def train(self, mode=True): raise NotImplementedError('exported')\n"
    )
    built = build_module(f"{tmp_path / 'mine.py'}:Silent")
    assert isinstance(built, torch.nn.Module)
    assert not built.training
    with pytest.raises(InputError, match=r"Stuck returned a module that eval\(\) fails on: exported"):
        build_module(f"{tmp_path / 'mine.py'}:Stuck")


def test_files_and_functions_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("def build(): ...")
    with pytest.raises(InputError, match=r"no Python file; its name must end with \.py"):
        build_module(f"{tmp_path / 'mine.txt'}:build")
    with pytest.raises(InputError, match=r"need path/to/file\.py:name, a function that returns"):
        check_names([f"{tmp_path / 'mine.txt'}:not a name"])
    with pytest.raises(InputError, match="need a defense"):
        check_names([])
