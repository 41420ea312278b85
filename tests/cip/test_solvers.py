"""Solvers as objects and from users' files: found, told apart, and held to what they return."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.instances import neighborhoods
from otad_ray.cip import DualSimplex, Regularity, RowResult, Status, check_solver, integrate, solver_fingerprint
from otad_ray.cip.solvers.conic import ConicPrimal
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig

MINE = """
from helper import highest
from otad_ray.cip import RowResult

class Vertex:
    def __call__(self, centers, levels, kappa):
        return highest(RowResult, levels)

ready = Vertex()
number = 3
"""
HELPER = """
import numpy as np
from otad_ray.cip import Status

def highest(result, levels):
    return result(Status.SOLVED, np.eye(len(levels))[levels.argmax()], float(levels.max()))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def equal_features() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neighborhoods in which every weight is as good as another, so that any vertex solves (16)."""
    query, points, _ = neighborhoods(3, 4, 5)
    return query, points, torch.zeros_like(points)


@pytest.mark.parametrize("solver", [DualSimplex(), ConicPrimal("clarabel")])
def test_solver_objects_are_what_their_names_stand_for(solver: DualSimplex | ConicPrimal) -> None:
    query, points, features = neighborhoods(4, 5, 6)
    by_name = integrate(query, points, features, Regularity(), solver=solver.name)
    by_object = integrate(query, points, features, Regularity(), solver=solver)
    assert torch.equal(by_object.feature, by_name.feature)
    assert by_object.solver == by_name.solver == solver.name


def test_settings_of_a_solver_count() -> None:
    query, points, features = neighborhoods(4, 5, 6)
    found = integrate(query, points, features, Regularity(), solver=DualSimplex(tolerance=-1.0))
    assert found.status.tolist() == [Status.FAILED] * 4


@pytest.mark.parametrize("name", ["Vertex", "ready"])
def test_a_solver_in_a_users_file_is_used(mine: Path, name: str) -> None:
    found = integrate(*equal_features(), Regularity(), solver=f"{mine}:{name}")
    assert found.status.tolist() == [Status.SOLVED] * 3
    assert found.weights.amax(1).tolist() == [1.0] * 3
    assert found.solver == "Vertex"
    check_solver(f"{mine}:{name}")
    assert IntegrationConfig(solver=f"{mine}:{name}").solver == f"{mine}:{name}"
    with pytest.raises(ValueError, match="solver 'Vertex' has no gradient"):
        integrate(*(tensor.requires_grad_() for tensor in equal_features()), Regularity(), solver=f"{mine}:{name}")


def test_fingerprint_changes_with_what_the_file_imports(mine: Path, tmp_path: Path) -> None:
    assert solver_fingerprint("dual") is solver_fingerprint("clarabel") is None
    before = solver_fingerprint(f"{mine}:Vertex")
    shutil.copytree(mine.parent, tmp_path / "elsewhere")
    assert solver_fingerprint(f"{tmp_path / 'elsewhere' / 'mine.py'}:Vertex") == before
    (mine.parent / "helper.py").write_text(f"{HELPER}# changed")
    assert solver_fingerprint(f"{mine}:Vertex") != before


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("mine.py:number", "is an int, which cannot be called; need a class of solvers"),
        ("mine.py:Vortex", "has no 'Vortex'; need a class of solvers"),
        ("nowhere.py:Vertex", "there is no file .*nowhere.py"),
    ],
)
def test_what_is_no_solver_is_refused_before_any_work(mine: Path, location: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_solver(str(mine.parent / location))


@pytest.mark.parametrize(
    "result",
    [
        RowResult(Status.SOLVED),
        RowResult(Status.SOLVED, np.full(4, 0.5), 0.0),
        RowResult(Status.SOLVED, np.array([2.0, -1.0, 0.0, 0.0]), 0.0),
        RowResult(Status.SOLVED, np.full(4, np.nan), 0.0),
        RowResult(Status.SOLVED, np.full(3, 1 / 3), 0.0),
        RowResult(Status.SOLVED, np.full(4, 0.25), float("nan")),
        RowResult(Status.FAILED),
    ],
)
def test_what_is_no_solution_is_a_failed_row(result: RowResult) -> None:
    found = integrate(*equal_features(), Regularity(), solver=lambda centers, levels, kappa: result)
    assert found.status.tolist() == [Status.FAILED] * 3
    assert found.value.isnan().all()
    torch.testing.assert_close(found.weights, torch.full((3, 4), 0.25, dtype=torch.float64))


def test_a_solver_that_returns_something_else_is_refused() -> None:
    with pytest.raises(InputError, match=r"returned a tuple; need an otad_ray\.cip\.solvers\.RowResult"):
        integrate(*equal_features(), Regularity(), solver=lambda centers, levels, kappa: (1, 2))
