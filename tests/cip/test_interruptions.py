"""A MOSEK license that is lost in mid-run: rows are marked, and what needs every row raises."""

import mosek
import numpy as np
import pytest

from helpers.instances import neighborhoods
from helpers.mosek_standin import install
from otad_ray.cip import (
    Regularity,
    SolverInterruptedError,
    SolverUnavailableError,
    Status,
    check_solver,
    integrate,
    refuse_interruptions,
)


def test_rows_after_the_loss_are_interrupted_and_the_others_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    query, points, features = neighborhoods(6, 5, 8)
    exact = integrate(query, points, features, Regularity())
    mosek_license = install(monkeypatch, left=4)
    found = integrate(query, points, features, Regularity(), solver="mosek")
    assert found.status[:4].tolist() == exact.status[:4].tolist()
    assert found.status[4:].tolist() == [Status.INTERRUPTED] * 2
    np.testing.assert_allclose(found.value[:4], exact.value[:4], rtol=1e-9)
    assert found.value[4:].isnan().all()
    mosek_license.left = float("inf")
    assert integrate(query, points, features, Regularity(), solver="mosek").status.tolist() == exact.status.tolist()


def test_what_needs_every_row_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    query, points, features = neighborhoods(6, 5, 8)
    mosek_license = install(monkeypatch, left=6)
    with refuse_interruptions():
        integrate(query, points, features, Regularity(), solver="mosek")
        with pytest.raises(SolverInterruptedError, match="interrupted on 6 rows"):
            integrate(query, points, features, Regularity(), solver="mosek")
    assert integrate(query, points, features, Regularity(), solver="mosek").status.tolist() == [Status.INTERRUPTED] * 6
    assert mosek_license.solves == 6


class _Environment:
    """Whose license check ends with a given error."""

    def __init__(self, code: mosek.rescode) -> None:
        self._code = code

    def __enter__(self) -> "_Environment":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def checkoutlicense(self, feature: object) -> None:
        raise mosek.Error(self._code, "no")


def test_a_license_whose_tokens_are_all_taken_is_a_license(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosek.Env", lambda: _Environment(mosek.rescode.err_license_max))
    check_solver("mosek")
    monkeypatch.setattr("mosek.Env", lambda: _Environment(mosek.rescode.err_license_expired))
    with pytest.raises(SolverUnavailableError, match="MOSEK error 1001"):
        check_solver("mosek")
