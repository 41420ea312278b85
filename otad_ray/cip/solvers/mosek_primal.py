"""The primal (16) through MOSEK's own API, as affine conic constraints.

One environment per process. A license token is held only while a program is solved, so that more processes than
tokens take turns: one that finds every token taken waits. A license that is missing or lost in mid-run makes the row
`interrupted`.
"""

from functools import cache
from typing import Any

import numpy as np

from otad_ray.cip.solvers.base import RowResult, SolverUnavailableError, simplex_weights
from otad_ray.cip.status import Status

# Errors that another license, server or hour may cure. Others, such as a license too small for the program, would be
# tried again for ever.
_RETRYABLE_ERRORS = (
    "err_license",
    "err_license_expired",
    "err_file_license",
    "err_missing_license_file",
    "err_flexlm",
    "err_license_server",
    "err_license_max",
    "err_license_moseklm_daemon",
    "err_license_feature",
    "err_license_cannot_allocate",
    "err_license_cannot_connect",
    "err_license_server_version",
    "err_license_no_server_support",
    "err_license_no_server_line",
)


@cache
def _retryable_codes() -> frozenset[int]:
    import mosek

    return frozenset(int(getattr(mosek.rescode, name)) for name in _RETRYABLE_ERRORS)


def check_license() -> None:
    """Check a license out and back in (about 65 ms); SolverUnavailableError where there is none."""
    try:
        import mosek
    except ImportError as error:
        raise SolverUnavailableError("solver 'mosek' needs the package mosek: pip install mosek") from error
    try:
        with mosek.Env() as environment:
            environment.checkoutlicense(mosek.feature.pton)
    except mosek.Error as error:
        if int(error.errno) == int(mosek.rescode.err_license_max):
            # Every token is taken: there is a license, and solves wait for their turn.
            return
        raise SolverUnavailableError(
            f"solver 'mosek' got no license (MOSEK error {int(error.errno)}: {error.msg}). Set MOSEKLM_LICENSE_FILE to "
            "a license file or to port@host of a license server, or use --solver dual, which needs none."
        ) from None


@cache
def _environment() -> Any:
    import mosek

    environment = mosek.Env()
    environment.putlicensewait(1)
    return environment


def build_task(environment: Any, centers: np.ndarray, levels: np.ndarray, kappa: float) -> Any:
    """Program (16) as a MOSEK task; centers (K, D), levels (K,), float64.

    Variables are `v, z_1 .. z_D`; constraint i is the rotated cone `2 (v - level_i) / (2 kappa) >= |z - center_i|^2`.
    """
    import mosek

    num_cones, dimension = centers.shape
    rows_per_cone = dimension + 2
    task = environment.Task()
    task.putintparam(mosek.iparam.num_threads, 1)
    task.putintparam(mosek.iparam.cache_license, mosek.onoffkey.off)
    task.appendvars(dimension + 1)
    task.putvarboundsliceconst(0, dimension + 1, mosek.boundkey.fr, 0.0, 0.0)
    task.putcj(0, 1.0)
    task.putobjsense(mosek.objsense.minimize)

    task.appendafes(num_cones * rows_per_cone)
    first = np.arange(num_cones) * rows_per_cone
    task.putafefentrylist(first, np.zeros(num_cones, dtype=np.int32), np.ones(num_cones))
    feature_rows = (first[:, None] + 2 + np.arange(dimension)).ravel()
    feature_columns = np.tile(np.arange(1, dimension + 1, dtype=np.int32), num_cones)
    task.putafefentrylist(feature_rows, feature_columns, np.ones(feature_rows.size))
    constants = np.hstack([-levels[:, None], np.full((num_cones, 1), 0.5 / kappa), -centers])
    task.putafegslice(0, num_cones * rows_per_cone, constants.ravel())
    domain = task.appendrquadraticconedomain(rows_per_cone)
    for start in first:
        task.appendaccseq(domain, int(start), None)
    return task


class MosekPrimal:
    """Program (16), one task per row in the process's environment.

    After an interruption it says so of every later row, without asking: take a new one for every batch.
    """

    name = "mosek"

    def __init__(self) -> None:
        self._interrupted = False

    def __call__(self, centers: np.ndarray, levels: np.ndarray, kappa: float) -> RowResult:
        import mosek

        # An unreachable server takes seconds to say so; the rest of the batch does not ask it again.
        if self._interrupted:
            return RowResult(Status.INTERRUPTED)
        try:
            with build_task(_environment(), centers, levels, kappa) as task:
                task.optimize()
                return _read_solution(task, len(levels))
        except mosek.Error as error:
            if int(error.errno) in _retryable_codes():
                self._interrupted = True
                return RowResult(Status.INTERRUPTED)
            return RowResult(Status.FAILED)


def _read_solution(task: Any, num_cones: int) -> RowResult:
    import mosek

    if task.getsolsta(mosek.soltype.itr) != mosek.solsta.optimal:
        return RowResult(Status.FAILED)
    # The multiplier of v - level_i, first entry of each cone's dual vector, is the weight of constraint i.
    multipliers = np.array([task.getaccdoty(mosek.soltype.itr, cone)[0] for cone in range(num_cones)])
    weights = simplex_weights(multipliers)
    if weights is None:
        return RowResult(Status.FAILED)
    return RowResult(Status.SOLVED, weights, float(task.getprimalobj(mosek.soltype.itr)))
