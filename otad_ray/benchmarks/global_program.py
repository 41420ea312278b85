"""The global program: the cutting planes against Clarabel and POT, and a compressed potential against the whole."""

import logging
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor, nn

from otad_ray.benchmarks.measurement import Measurement, best_of, threads
from otad_ray.cip import Pieces, integrate_globally

logger = logging.getLogger(__name__)

# The references take seconds a row.
_REFERENCE_ROWS = 2
_BATCH_ROWS = 256
# POT takes strictly convex potentials only.
_LEAST_CONVEXITY = 1e-9


def measure_global_clarabel(query: Tensor, pieces: Pieces, smoothness: float, *, goal: float) -> Measurement:
    """Measure milliseconds a row of the global program on queries (B, D), and of Clarabel on the first of them.

    Clarabel is given the program with all N pieces as linear constraints, which is the fastest form for it.
    """
    first = query[:_REFERENCE_ROWS].double().numpy()
    reference, values = best_of(1, lambda: _solve_by_clarabel(first, pieces, smoothness))
    return _compare("clarabel", query, pieces, smoothness, reference, values, goal)


def measure_global_pot(
    query: Tensor, points: Tensor, pieces: Pieces, smoothness: float, *, goal: float
) -> Iterator[Measurement]:
    """Measure the same against POT's `nearest_brenier_potential_predict_bounds`, if POT is installed.

    POT solves two programs, the lower and the upper bound, with quadratic constraints. It is given the potentials.

    Args:
        query: x (B, D).
        points: The pieces' points (N, D).
        pieces: The pieces, few.
        smoothness: L.
        goal: The least ratio wanted.
    """
    try:
        import ot.mapping
    except ImportError:
        logger.warning("without the comparison with POT, which is not installed: pip install POT")
        return
    features, exact = pieces.features.double(), points.double()
    potentials = pieces.offsets + (features * exact).sum(1) - features.square().sum(1) / (2 * smoothness)
    given = [array.numpy() for array in (exact, potentials, features, query[:_REFERENCE_ROWS].double())]
    constants = {"strongly_convex_constant": _LEAST_CONVEXITY, "gradient_lipschitz_constant": smoothness}
    reference, (values, _) = best_of(
        1, lambda: ot.mapping.nearest_brenier_potential_predict_bounds(*given, solver="CLARABEL", **constants)
    )
    yield _compare("pot", query, pieces, smoothness, reference, values[0], goal)


def measure_compression(
    compressed: nn.Module, whole: nn.Module, inputs: Tensor, *, num_threads: int, note: str
) -> Measurement:
    """Measure milliseconds a sample of a compressed defense and of the whole one, on inputs (N, *shape)."""
    batches = inputs.split(_BATCH_ROWS)
    with threads(num_threads), torch.no_grad():
        for defense in (compressed, whole):
            # The first call makes what is kept.
            defense(inputs[:1])
        ours, _ = best_of(3, lambda: [compressed(batch) for batch in batches])
        reference, _ = best_of(2, lambda: [whole(batch) for batch in batches])
    return Measurement(
        name=f"forward_compressed_{num_threads}_threads",
        unit="ms/sample",
        ours=1e3 * ours / len(inputs),
        reference=1e3 * reference / len(inputs),
        ratio=reference / ours,
        goal=None,
        note=f"{len(inputs)} samples in batches of {_BATCH_ROWS}, {note}",
    )


def _compare(
    name: str, query: Tensor, pieces: Pieces, smoothness: float, reference: float, values: np.ndarray, goal: float
) -> Measurement:
    """Measure our solve of all queries beside a reference's seconds and values (n,) for the first of them."""
    ours, solution = best_of(3, lambda: integrate_globally(query, pieces, smoothness))
    found = solution.value[: len(values)].numpy()
    difference = np.abs(found - values).max() / np.abs(values).max()
    return Measurement(
        name=f"global_{name}_{len(pieces)}",
        unit="ms/row",
        ours=1e3 * ours / len(query),
        reference=1e3 * reference / len(values),
        ratio=(reference / len(values)) / (ours / len(query)),
        goal=goal,
        note=f"{len(query)} rows, {len(pieces)} pieces of {pieces.dimension} dimensions, {torch.get_num_threads()} "
        f"threads; values agree to {difference:.0e}",
    )


def _solve_by_clarabel(query: np.ndarray, pieces: Pieces, smoothness: float) -> np.ndarray:
    """Return the values (n,) of `min over w, t of t + (L/2) |x - w|^2` under `<z_i, w> + c_i <= t`."""
    import clarabel

    count, dimension = len(pieces), pieces.dimension
    quadratic = sparse.diags([smoothness] * dimension + [0.0], format="csc")
    rows = sparse.csc_matrix(np.hstack([pieces.features.double().numpy(), -np.ones((count, 1))]))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    values = []
    for x in query:
        linear = np.append(-smoothness * x, 1.0)
        cones = [clarabel.NonnegativeConeT(count)]
        solver = clarabel.DefaultSolver(quadratic, linear, rows, -pieces.offsets.numpy(), cones, settings)
        values.append(solver.solve().obj_val + smoothness / 2 * x @ x)
    return np.array(values)
