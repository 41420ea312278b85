"""Convex integration: the batched dual against POT and against the primal in cvxpy with Clarabel."""

import numpy as np
import torch
from torch import Tensor

from otad_ray.benchmarks.measurement import Measurement, best_of
from otad_ray.cip import Regularity, Solution, integrate
from otad_ray.errors import InputError

# The references take up to seconds a row.
_REFERENCE_ROWS = 3
# POT takes strictly convex potentials only.
_LEAST_CONVEXITY = 1e-6


def measure_cip(
    query: Tensor, points: Tensor, features: Tensor, regularity: Regularity, *, goal: float
) -> list[Measurement]:
    """Seconds a row of `integrate` on the whole batch, and of both references on its first rows.

    query (B, D), points and features (B, K, D). The references are given the potentials and solve (16) alone.
    POT's function solves two programs, the lower and the upper bound, at l >= 1e-6. All have the threads torch has now.
    """
    rows, dimension = query.shape
    with torch.no_grad():
        ours, solution = best_of(2, lambda: integrate(query, points, features, regularity))
        first = _FirstRows(query, points, features, regularity, solution)
        conic, conic_values = best_of(2, first.conic)
        pot, pot_values = best_of(2, first.pot)
    values = solution.value[:_REFERENCE_ROWS].numpy()
    difference = max(np.abs(found - values).max() for found in (conic_values, pot_values)) / np.abs(values).max()
    note = f"{rows} rows, K = {points.shape[1]}, {torch.get_num_threads()} threads; values agree to {difference:.0e}"
    return [
        Measurement(
            name=f"cip_{name}_{dimension}",
            unit="ms/row",
            ours=1e3 * ours / rows,
            reference=1e3 * reference / _REFERENCE_ROWS,
            ratio=(reference / _REFERENCE_ROWS) / (ours / rows),
            goal=goal,
            note=note,
        )
        for name, reference in (("clarabel", conic), ("pot", pot))
    ]


class _FirstRows:
    """Values (n,) of the first rows by either reference."""

    def __init__(
        self, query: Tensor, points: Tensor, features: Tensor, regularity: Regularity, solution: Solution
    ) -> None:
        rows = slice(0, _REFERENCE_ROWS)
        self._query, self._points, self._features = query[rows], points[rows], features[rows]
        self._potentials = solution.potentials[rows]
        self._regularity = regularity

    def conic(self) -> np.ndarray:
        solution = integrate(
            self._query,
            self._points,
            self._features,
            self._regularity,
            solver="clarabel",
            potentials=self._potentials,
        )
        return solution.value.numpy()

    def pot(self) -> np.ndarray:
        try:
            from ot.mapping import nearest_brenier_potential_predict_bounds as predict_bounds
        except ImportError as error:
            raise InputError("the benchmark compares with POT: pip install POT") from error
        given = [array.double().numpy() for array in (self._points, self._potentials, self._features)]
        queries = self._query.double().numpy()
        values = [
            predict_bounds(
                *(array[row] for array in given),
                queries[row : row + 1],
                strongly_convex_constant=max(self._regularity.strong_convexity, _LEAST_CONVEXITY),
                gradient_lipschitz_constant=self._regularity.smoothness,
                solver="CLARABEL",
            )[0][0, 0]
            for row in range(len(queries))
        ]
        return np.array(values)
