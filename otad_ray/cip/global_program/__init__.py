"""The global program: one convex, L-smooth potential over all training points, and its exact gradient.

Its feature is `z(x) = L (x - w(x))` with `w` the proximal point of `max_i <z_i, w> + c_i` over all N points. It is
L-Lipschitz everywhere, for any offsets: no neighbor set changes under it.
"""

from otad_ray.cip.global_program.brenier import BrenierPotential, make_pieces
from otad_ray.cip.global_program.cutting_planes import CuttingPlanes
from otad_ray.cip.global_program.integration import GlobalSolution, check_smoothness, integrate_globally
from otad_ray.cip.global_program.pieces import Largest, Pieces
from otad_ray.cip.global_program.potentials import find_neighbors, fit_potentials, measure_edges, solve_least_squares

__all__ = [
    "BrenierPotential",
    "CuttingPlanes",
    "GlobalSolution",
    "Largest",
    "Pieces",
    "check_smoothness",
    "find_neighbors",
    "fit_potentials",
    "integrate_globally",
    "make_pieces",
    "measure_edges",
    "solve_least_squares",
]
