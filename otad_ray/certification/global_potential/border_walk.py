"""Walks from an input to where a rival class wins, and what they prove; `certify` has the proof."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from otad_ray.certification.margins import AffineHead
from otad_ray.cip import CuttingPlanes, Pieces

# A bound holds for any gap, because the gap is subtracted: a walk need not be solved as exactly as a prediction.
_SOLVER = CuttingPlanes(finished=1e-5)
# Steps towards one rival's border.
_STEPS = 4
# The first step is this much longer than the bound that is known, and no step is more than `_LONGEST` times the last.
_FIRST, _LONGEST = 1.4, 3.0
# A margin below this fraction of the input's is the border.
_AT_BORDER = 0.01
# No feature moves so far.
_FARTHEST = 1e150
# A number times this stays below itself after a few roundings in float64.
BELOW = 1 - 1e-12


class Start(NamedTuple):
    """Solved inputs, float64.

    Attributes:
        point: x (n, D).
        place: w (n, D).
        feature: `z = L (x - w)` (n, D).
        level: `sum_i s_i f_i(w)` (n,).
        gap: Bound (n,) on `max_i f_i(w) - level`, rounding included.
        pieces: Positions (n, k) of the pieces that z is made of, int64.
        predicted: The class a (n,) of the largest logit, int64.
    """

    point: Tensor
    place: Tensor
    feature: Tensor
    level: Tensor
    gap: Tensor
    pieces: Tensor
    predicted: Tensor

    def take(self, rows: Tensor) -> "Start":
        """Return some of the rows."""
        return Start(*(tensor[rows] for tensor in self))


class Obstacles(NamedTuple):
    """What keeps rivals from winning, of n inputs and C classes, float64.

    Attributes:
        allowance: By how much (n, C) a computed margin at another input may differ from that of the exact feature.
        depth: How far (n, C) the feature must move, `n` in the proof; 0 for the class itself.
        bisector: How far (n, C) the proximal point must move, T in the proof; infinite if the rival wins no piece.
    """

    allowance: Tensor
    depth: Tensor
    bisector: Tensor


class BorderWalk:
    """Bounds on how far an input must move before a rival wins, from features on the way to the rival."""

    def __init__(
        self,
        pieces: Pieces,
        head: AffineHead,
        smoothness: float,
        start: Start,
        obstacles: Obstacles,
        largest_radius: float,
    ) -> None:
        """Hold the inputs.

        Args:
            pieces: All N pieces.
            head: The affine head.
            smoothness: L.
            start: The inputs.
            obstacles: What is known of their rivals.
            largest_radius: No bound needs to hold for inputs further away.
        """
        self._pieces, self._head, self._smoothness = pieces, head, smoothness
        self._start, self._obstacles, self._largest_radius = start, obstacles, largest_radius

    def improve(self, bounds: Tensor) -> Tensor:
        """Return larger bounds (n, C), of those rivals that decide an input's radius.

        Every round takes one step for each input, towards the rival whose bound is the smallest.

        Args:
            bounds: How far (n, C) each input must move before each rival wins, as far as it is known; infinite for the
                class itself. An input with a bound of 0 is left as it is.
        """
        bounds = bounds.clone()
        search = _BorderSearch.start(self._margins(), _FIRST * bounds / self._head.distances[self._start.predicted])
        for _ in range(_STEPS * bounds.shape[1]):
            least, rivals = bounds.min(1)
            left = search.steps.gather(1, rivals.unsqueeze(1)).squeeze(1)
            rows = ((left > 0) & (least > 0) & (least < self._largest_radius)).nonzero().squeeze(1)
            if not len(rows):
                break
            at = (rows, rivals[rows])
            bound, margin = self._look_back(*at, search.position[at])
            bounds[at] = torch.maximum(bounds[at], bound)
            search.record(at, margin)
        return bounds

    def _margins(self) -> Tensor:
        """Return the margins (n, C) at the inputs, less the allowance."""
        logits = self._head.logits(self._start.feature)
        return logits.gather(1, self._start.predicted.unsqueeze(1)) - logits - self._obstacles.allowance

    def _look_back(self, rows: Tensor, rivals: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a position lambda (n,) along -h proves (n,), and the margin (n,) that the rival leaves there."""
        head, start, smoothness = self._head, self._start.take(rows), self._smoothness
        obstacles = Obstacles(*(tensor[rows, rivals] for tensor in self._obstacles))
        slope = head.weight[start.predicted] - head.weight[rivals]
        shift = head.bias[start.predicted] - head.bias[rivals] - obstacles.allowance
        step = position.unsqueeze(1) * slope
        query = start.point - step
        found, gap = _SOLVER.solve(query, self._pieces, smoothness, first=start.pieces)
        place = query - found.feature / smoothness
        # Any p serves: `found.level + gap` bounds the largest of all pieces at the place that belongs to it.
        turn = start.place - step - place
        mu = start.level + position * shift - (turn * start.feature).sum(1) - (found.level + gap)
        mu = mu - self._rounding(start, place, turn, step)
        bound = bound_distance(smoothness, start.gap, obstacles, mu, turn.norm(dim=1))
        return bound, (found.feature * slope).sum(1) + shift

    def _rounding(self, start: Start, place: Tensor, turn: Tensor, step: Tensor) -> Tensor:
        """Bound (n,) the rounding of mu, and what w, z and p lack of the relations that the proof assumes."""
        pieces, eps = self._pieces, torch.finfo(torch.float64).eps
        values = pieces.rounding(start.place, torch.float64) + pieces.rounding(place, torch.float64)
        norm = start.point.norm(dim=1)
        # The solver may form values from products between features, which are as large as `|z|^2 / L`.
        reach = norm + turn.norm(dim=1) + step.norm(dim=1) + self._largest_radius
        reach = reach + 4 * pieces.largest_norm / self._smoothness
        return 4 * values + (pieces.dimension + 64) * eps * (pieces.largest_norm + self._smoothness * norm) * reach


class _BorderSearch(NamedTuple):
    """Searches for the zeros of decreasing functions, n inputs by C rivals: margins along the way to each rival.

    Attributes:
        near: The largest position with a margin above 0.
        near_margin: The margin there.
        far: The smallest position with a margin of 0 or below; infinite before there is one.
        far_margin: The margin there.
        position: Where to look next.
        enough: A margin this small is the border.
        steps: How often one may look.
    """

    near: Tensor
    near_margin: Tensor
    far: Tensor
    far_margin: Tensor
    position: Tensor
    enough: Tensor
    steps: Tensor

    @classmethod
    def start(cls, margins: Tensor, position: Tensor) -> Self:
        """Start at margins (n, C), to look at a position (n, C) first."""
        near, far = torch.zeros_like(margins), torch.full_like(margins, torch.inf)
        steps = torch.full_like(margins, _STEPS)
        return cls(near, margins.clone(), far, near.clone(), position.clone(), _AT_BORDER * margins, steps)

    def record(self, at: tuple[Tensor, Tensor], margin: Tensor) -> None:
        """Take in the margins (k,) that were found at the positions of some rivals, and choose where to look next."""
        near, near_margin, far, far_margin, here = (tensor[at] for tensor in self[:5])
        slope = (near_margin - margin) / (here - near)
        beyond = margin <= 0
        near, near_margin = torch.where(beyond, near, here), torch.where(beyond, near_margin, margin)
        far, far_margin = torch.where(beyond, here, far), torch.where(beyond, margin, far_margin)
        onward = torch.where(slope > 0, near + near_margin / slope, torch.inf)
        between = near + (far - near) * near_margin / (near_margin - far_margin)
        self.position[at] = torch.where(torch.isfinite(far), between, torch.minimum(onward, _LONGEST * near))
        for kept, value in zip(self[:4], (near, near_margin, far, far_margin), strict=True):
            kept[at] = value
        self.steps[at] = torch.where(margin.abs() < self.enough[at], 0, self.steps[at] - 1)


def bound_distance(
    smoothness: float, gap: Tensor, obstacles: Obstacles, mu: Tensor | float = 0.0, turn: Tensor | float = 0.0
) -> Tensor:
    """Return how far a point must move before a rival wins: the root of the least value, over t, of the proof's end.

    Args:
        smoothness: L.
        gap: That of the inputs.
        obstacles: Those of the rivals, of any shape.
        mu: The slack that a walk found; 0 where there was none.
        turn: `|p|` of the walk.
    """
    # A rival that has no border is infinitely far away; products with zero must stay zero.
    depth, bisector, tiny = obstacles.depth.clamp(max=_FARTHEST), obstacles.bisector, torch.finfo(torch.float64).tiny
    mu, turn = (torch.as_tensor(value).to(depth).expand_as(depth) for value in (mu, turn))
    mu = mu.clamp_min(0)
    # The t of the least value lies before or after `middle`: `first` and `second` are the best ones on either side. Up
    # to `middle` mu / t - |p| is above T, and up to `end` it is above 0.
    middle, end = mu / (bisector + turn).clamp_min(tiny), mu / turn.clamp_min(tiny)
    first = torch.minimum(torch.maximum((mu * smoothness).sqrt(), depth), middle)
    before = (mu / first.clamp_min(tiny) + first / smoothness - turn).square()
    second = torch.maximum(torch.minimum(turn * smoothness, end), torch.maximum(middle, depth))
    after = bisector.square() + (second / smoothness).square() + 2 * (mu - turn * second).clamp_min(0) / smoothness
    square = torch.where(depth <= middle, torch.minimum(before, after), after) - 2 * gap / smoothness
    return square.clamp_min(0).sqrt() * BELOW
