"""The MOSEK model, written out by MOSEK and solved by Clarabel: no license is needed for either."""

from pathlib import Path

import clarabel
import mosek
import numpy as np
import pytest
from scipy import sparse

from helpers.instances import neighborhoods
from otad_ray.cip import Regularity, SolverUnavailableError, Status, check_solver, integrate
from otad_ray.cip.solvers.mosek_primal import build_task


def read_cbf(path: Path) -> dict[str, list[list[float]]]:
    """Sections of a CBF file as rows of numbers; cone names are dropped."""
    sections: dict[str, list[list[float]]] = {}
    for block in path.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line]
        if lines:
            rows = [line.split() for line in lines[1:]]
            sections[lines[0]] = [[float(item) for item in row if not item.isalpha()] for row in rows]
    return sections


def solve_cbf(path: Path) -> float:
    """Optimal value of a CBF file whose constraints are rotated cones `2 r_0 r_1 >= |r_2..|^2`."""
    sections = read_cbf(path)
    num_variables = int(sections["VAR"][0][0])
    num_rows = int(sections["CON"][0][0])
    sizes = [int(row[0]) for row in sections["CON"][1:]]
    matrix = np.zeros((num_rows, num_variables))
    for row, column, value in sections["ACOORD"][1:]:
        matrix[int(row), int(column)] = value
    constant = np.zeros(num_rows)
    for row, value in sections["BCOORD"][1:]:
        constant[int(row)] = value
    objective = np.zeros(num_variables)
    for column, value in sections["OBJACOORD"][1:]:
        objective[int(column)] = value
    # A rotated cone is a second-order cone in ((r_0 + r_1), (r_0 - r_1)) / sqrt(2).
    turn = sparse.block_diag(
        [sparse.block_diag([np.array([[1, 1], [1, -1]]) / np.sqrt(2), sparse.eye(size - 2)]) for size in sizes]
    )
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_rel = settings.tol_gap_abs = settings.tol_feas = 1e-11
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix((num_variables, num_variables)),
        objective,
        sparse.csc_matrix(-turn @ matrix),
        turn @ constant,
        [clarabel.SecondOrderConeT(size) for size in sizes],
        settings,
    )
    return solver.solve().obj_val


@pytest.mark.parametrize("strong_convexity", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize("dimension", [6, 120])
def test_the_model_is_program_16(tmp_path: Path, dimension: int, strong_convexity: float) -> None:
    query, points, features = neighborhoods(1, 5, dimension, seed=dimension)
    regularity = Regularity(smoothness=2.0, strong_convexity=strong_convexity)
    solution = integrate(query, points, features, regularity)
    steps = query[0] - points[0]
    centers = features[0] + strong_convexity * steps
    levels = (
        solution.potentials[0] + (features[0] * steps).sum(1) + strong_convexity / 2 * steps.square().sum(1)
    ).numpy()
    path = tmp_path / "program.cbf"
    with mosek.Env() as environment, build_task(environment, centers.numpy(), levels, regularity.kappa) as task:
        task.writedata(str(path))
    assert solve_cbf(path) == pytest.approx(float(solution.value), rel=1e-7)


def _has_license() -> bool:
    try:
        check_solver("mosek")
    except SolverUnavailableError:
        return False
    return True


@pytest.mark.skipif(_has_license(), reason="a MOSEK license is installed")
def test_without_a_license() -> None:
    with pytest.raises(SolverUnavailableError, match="MOSEKLM_LICENSE_FILE"):
        check_solver("mosek")
    query, points, features = neighborhoods(2, 5, 6)
    solution = integrate(query, points, features, Regularity(), solver="mosek")
    assert solution.status.tolist() == [Status.INTERRUPTED] * 2
    assert solution.value.isnan().all()
    assert solution.weights.sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.skipif(not _has_license(), reason="needs a MOSEK license")
def test_with_a_license() -> None:
    query, points, features = neighborhoods(2, 10, 20)
    exact = integrate(query, points, features, Regularity())
    found = integrate(query, points, features, Regularity(), solver="mosek")
    assert found.status.tolist() == exact.status.tolist()
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-6)
    np.testing.assert_allclose(found.feature, exact.feature, atol=1e-3)
