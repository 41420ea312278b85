"""MOSEK without a license: tasks are solved by the dual, and the license is lost after a number of solves."""

from typing import Any, Self

import mosek
import numpy as np
import pytest
import torch

from otad_ray.cip.simplex_qp import solve_simplex_qp
from otad_ray.cip.solvers import mosek_primal


class License:
    """left: solves until it is lost."""

    def __init__(self, left: float) -> None:
        self.left = left
        self.solves = 0


class _Task:
    def __init__(self, mosek_license: License, centers: np.ndarray, levels: np.ndarray, kappa: float) -> None:
        self._license, self._centers, self._levels, self._kappa = mosek_license, centers, levels, kappa

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def optimize(self) -> None:
        if self._license.solves >= self._license.left:
            raise mosek.Error(mosek.rescode.err_license_cannot_connect, "no license server")
        self._license.solves += 1
        centers = torch.from_numpy(self._centers)
        # min_z max_i levels_i + kappa |z - centers_i|^2, by its dual.
        linear = torch.from_numpy(self._levels) + self._kappa * centers.square().sum(1)
        weights = solve_simplex_qp((self._kappa * centers @ centers.T).unsqueeze(0), linear.unsqueeze(0))[0]
        self._weights = weights.numpy()
        self._value = float(weights @ linear - self._kappa * (weights @ centers).square().sum())

    def getsolsta(self, kind: Any) -> Any:
        return mosek.solsta.optimal

    def getaccdoty(self, kind: Any, cone: int) -> list[float]:
        return [self._weights[cone]]

    def getprimalobj(self, kind: Any) -> float:
        return self._value


def install(monkeypatch: pytest.MonkeyPatch, left: float) -> License:
    """Use the stand-in in this process; what it returns says how many solves are left."""
    mosek_license = License(left)
    monkeypatch.setattr(mosek_primal, "build_task", lambda environment, *program: _Task(mosek_license, *program))
    monkeypatch.setattr(mosek_primal, "check_license", lambda: None)
    return mosek_license
