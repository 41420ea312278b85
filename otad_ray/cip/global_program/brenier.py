"""A convex and smooth potential whose gradient carries points to given gradients, for tens of thousands of points."""

from typing import Self

from torch import Tensor

from otad_ray.cip.global_program.integration import GlobalSolution, check_smoothness, integrate_globally
from otad_ray.cip.global_program.pieces import Pieces
from otad_ray.cip.global_program.potentials import check_pairs, find_neighbors, fit_potentials
from otad_ray.errors import InputError


def make_pieces(points: Tensor, features: Tensor, potentials: Tensor, smoothness: float) -> Pieces:
    """Return the pieces of the global program at `l = 0`: `c_i = u_i - <z_i, x_i> + |z_i|^2 / (2 L)`.

    Args:
        points: x (N, D).
        features: z (N, D).
        potentials: u (N,).
        smoothness: L.

    Raises:
        InputError: For shapes that do not agree, values that are not finite, and an L that is not above 0.
    """
    check_smoothness(smoothness)
    check_pairs(points, features)
    _check_potentials(potentials, points)
    exact = features.double()
    products = (exact * points.double()).sum(1)
    return Pieces(features, potentials.double() - products + exact.square().sum(1) / (2 * smoothness))


class BrenierPotential:
    """A potential that is `l`-strongly convex and `L`-smooth, and whose gradient at the points is near those given.

    Unlike POT's `nearest_brenier_potential_fit` it keeps the gradients and the points' order as they are, fits the
    potentials alone, and so works for tens of thousands of points. At potentials that satisfy inequality (15) it is
    the smallest interpolating potential, POT's lower bound. At any others it is as convex and smooth, but its gradients
    at the points are only near those given.

        potential = BrenierPotential(points, gradients, 2.0).fit()
        potential.value(x), potential.transport(x)

    Attributes:
        potentials: The values (N,) at the points, float64; None before `fit`, unless they are given.
    """

    def __init__(
        self,
        points: Tensor,
        gradients: Tensor,
        smoothness: float,
        *,
        strong_convexity: float = 0.0,
        potentials: Tensor | None = None,
    ) -> None:
        """Hold the points.

        Args:
            points: x (N, D), float32 or float64.
            gradients: The wanted gradients (N, D).
            smoothness: L, above l and 0.
            strong_convexity: l, may be negative.
            potentials: The values (N,) at the points, if they are known.

        Raises:
            InputError: For shapes, bounds or values that do not fit.
        """
        check_smoothness(smoothness)
        check_pairs(points, gradients)
        if not strong_convexity < smoothness:
            raise InputError(f"need strong_convexity < smoothness, got {strong_convexity} and {smoothness}")
        self._points, self._low, self._smoothness = points, strong_convexity, smoothness - strong_convexity
        # Less (l/2) |x|^2 everything is convex and (L - l)-smooth.
        self._features = gradients - strong_convexity * points if strong_convexity else gradients
        self._pieces: Pieces | None = None
        self.potentials: Tensor | None = None
        if potentials is not None:
            self._set(potentials)

    def fit(self, *, neighbors: int = 10, seed: int = 0) -> Self:
        """Fit the potentials by weighted least squares over the nearest points, and return self.

        Args:
            neighbors: Nearest points, and as many random ones, that each point is compared with.
            seed: Of the random ones.
        """
        near = find_neighbors(self._points, neighbors)
        fitted = fit_potentials(self._points, self._features, near, num_random=neighbors, seed=seed)
        self._set(fitted + self._quadratic(self._points))
        return self

    def value(self, x: Tensor) -> Tensor:
        """Return the potential (B,), float64, at x (B, D); NaN where the solver failed."""
        return self._integrate(x).value + self._quadratic(x)

    def transport(self, x: Tensor) -> Tensor:
        """Return the potential's gradient (B, D) at x (B, D): the points that x is carried to."""
        return self._integrate(x).feature + self._low * x

    def _set(self, potentials: Tensor) -> None:
        """Take these values at the points."""
        _check_potentials(potentials, self._points)
        shifted = potentials.double() - self._quadratic(self._points)
        self._pieces = make_pieces(self._points, self._features, shifted, self._smoothness)
        self.potentials = potentials.double()

    def _integrate(self, x: Tensor) -> GlobalSolution:
        if self._pieces is None:
            raise InputError("this potential has no values yet; call fit(), or give potentials")
        return integrate_globally(x, self._pieces, self._smoothness)

    def _quadratic(self, x: Tensor) -> Tensor:
        """Return `(l/2) |x|^2` (B,), float64."""
        return self._low / 2 * x.double().square().sum(1)


def _check_potentials(potentials: Tensor, points: Tensor) -> None:
    """Raise InputError unless there is one potential for each point."""
    if potentials.shape != points.shape[:1]:
        raise InputError(f"need one potential for each of {len(points)} points, got {tuple(potentials.shape)}")
