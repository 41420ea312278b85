"""Certificate of the potential over all training points, whose feature is L-Lipschitz everywhere.

For the predicted class `a` let `n(z)` be the least margin of the head over the norm of its slope, less all that
rounding and the solver's error at another input may take. It is concave and 1-Lipschitz, and above 0 the class is `a`.
With `w = x - z / L` at the input, `e` a bound on the error of the feature there, `n_j = n(z_j)` and `eta` a bound on
the rounding of a difference of values, let

    T(m) = min over j with n_j < m of  max over i of (f_i(w) - f_j(w) - eta) / |z_i - z_j| - e / L,

clipped at 0, and `T(0)` the same over `n_j <= 0`. While the input moves by less than `T(m)`, so does `w`, no such piece
j is the largest, and the feature is a combination of pieces with `n_i >= m`: so is its own n. From there, to leave the
class the feature must move by m and `w` by `T(0) - T(m)`, because some piece with `n_j <= 0` must become the largest.
The proximal map is firmly nonexpansive, `|w' - w|^2 + |z' - z|^2 / L^2 <= |x' - x|^2`, which gives the radius

    r = max over m of  T(m) + sqrt((T(0) - T(m))^2 + (m / L)^2),   0 <= m <= n(z) - e.

It holds at `m = 0`, as `T(0)`: bisectors of the power diagram; and contains `n(z) / L`: the Lipschitz bound. An m above
`n(z)` is never allowed: pieces that are active together tie at `w`, where rounding would grant `m / L` for nothing.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from otad_ray.certification.certificate import Certificate
from otad_ray.certification.margins import AffineHead
from otad_ray.certification.motion import Motion
from otad_ray.cip import CuttingPlanes, Pieces, Status
from otad_ray.defenses import OTADGlobal

LIPSCHITZ, BISECTORS, COMBINED = "lipschitz", "power_bisectors", "lipschitz_and_bisectors"

# Inputs certified at a time; values of all pieces are held in float64.
_BLOCK_ROWS = 64
# Pieces i of largest value that bisectors are formed with, and pieces j that they are formed for, closest ones first.
_LARGEST, _MEASURED = 24, 384
# Margins m that are tried.
_MARGINS = 96
# A number times this stays below itself after a few roundings in float64.
_BELOW = 1 - 1e-12


class PieceTable:
    """What certificates need of every piece: computed once for a defense's pieces and its head."""

    def __init__(self, pieces: Pieces, head: AffineHead) -> None:
        self.pieces, self.head = pieces, head
        blocks = pieces.features.split(8192)
        self.logits = torch.cat([head.logits(block) for block in blocks])
        self.center = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(pieces)
        self.spreads = torch.cat([(block.double() - self.center).norm(dim=1) for block in blocks])
        self.rounding = head.rounding(self.logits.new_tensor([pieces.largest_norm]))[0]
        self._depths: dict[int, Tensor] = {}

    def depths(self, predicted: int) -> Tensor:
        """`n_j` (N,) of the pieces for a class, before the solver's error."""
        if predicted not in self._depths:
            self._depths[predicted] = self.head.depths(self.logits, self.rounding, predicted)
        return self._depths[predicted]


_tables: WeakKeyDictionary[OTADGlobal, PieceTable] = WeakKeyDictionary()


def certify_pieces(defense: OTADGlobal, inputs: Tensor, head: AffineHead, motion: Motion) -> Certificate:
    """Return the certificate, as explained above, of inputs (B, *shape) float32.

    Rows that failed get 0. Within the radius the program must be solved to the solver's tolerance, as it was here.

    Args:
        defense: the defense.
        inputs: around which radii are wanted.
        head: its affine head.
        motion: how points move with the input.
    """
    table = _tables.get(defense)
    if table is None or table.pieces is not defense.pieces or not table.head.agrees_with(head):
        table = _tables[defense] = PieceTable(defense.pieces, head)
    parts = [_certify_block(defense, block, table, motion) for block in inputs.split(_BLOCK_ROWS)]
    return Certificate(torch.cat([part.radius for part in parts]), [name for part in parts for name in part.method])


def _certify_block(defense: OTADGlobal, inputs: Tensor, table: PieceTable, motion: Motion) -> Certificate:
    logits, _, solution = defense.forward_details(inputs)
    pieces, smoothness = defense.pieces, defense.smoothness
    places = solution.proximal
    values = pieces.values(places)
    rounding = pieces.rounding(places, torch.float64)
    level = (solution.weights * values.gather(1, solution.index)).sum(1)
    gap = (values.amax(1) - level).clamp_min(0) + 2 * rounding
    error = (smoothness * gap).sqrt()
    # In float64: the feature that the head is given was rounded, which its own allowance covers.
    feature = smoothness * (defense.locate(inputs)[1].to(places) - places)
    predicted = logits.argmax(1).tolist()
    found = torch.zeros(len(inputs), dtype=torch.float64, device=places.device)
    method = [""] * len(inputs)
    for row, solved in enumerate((solution.status == Status.SOLVED).tolist()):
        if solved:
            certified = _Row(table, smoothness, predicted[row], places[row], values[row], feature[row])
            found[row], method[row] = certified.radius(float(error[row]), 2 * float(rounding[row]))
    norms = inputs.flatten(1).double().norm(dim=1).to(found)
    radius = torch.where(found > 0, motion.radius(found * _BELOW, norms) * _BELOW, 0)
    return Certificate(
        radius.to(inputs.device), [name if size > 0 else "" for name, size in zip(method, radius.tolist(), strict=True)]
    )


@dataclass(frozen=True)
class _Row:
    """One input.

    Attributes:
        table: what is known of the pieces.
        smoothness: L.
        predicted: the class a.
        place: w (D,).
        values: `f_j(w)` (N,).
        feature: z (D,), float64.
    """

    table: PieceTable
    smoothness: float
    predicted: int
    place: Tensor
    values: Tensor
    feature: Tensor

    def radius(self, error: float, rounding: float) -> tuple[float, str]:
        """Return how far the point may move, and what proves it.

        Args:
            error: e.
            rounding: eta.
        """
        distances = self._leaving_distances(rounding) - error / self.smoothness
        # Errors elsewhere grow with the radius, and make it smaller than this; twice, for margins off the grid.
        within = 2 * self._combine(distances, 0.0, error)[0]
        return self._combine(distances, self._solver_error(within), error)

    def _combine(self, distances: Tensor, elsewhere: float, error: float) -> tuple[float, str]:
        """Return the largest radius over a grid of margins m.

        Args:
            distances: `T` (N,) of each piece j, not clipped.
            elsewhere: bound on the error of the feature at other inputs.
            error: e.
        """
        depths = self.table.depths(self.predicted) - elsewhere
        own = self.table.head.depths(
            self.table.head.logits(self.feature.unsqueeze(0)), self.table.rounding, self.predicted
        )
        highest = float(own) - elsewhere - error
        margins = torch.linspace(0, max(highest, 0.0) * _BELOW, _MARGINS, dtype=torch.float64, device=depths.device)
        # Bucket k holds the pieces that count from margin k on: those at or below 0, then those below margin k.
        buckets = torch.bucketize(depths, margins, right=True).clamp(max=_MARGINS)
        buckets = torch.where(depths <= 0, 0, buckets)
        least = torch.full((_MARGINS + 1,), torch.inf, dtype=torch.float64, device=depths.device)
        least = least.scatter_reduce(0, buckets, distances, "amin")[:_MARGINS].cummin(0).values
        # Without any piece to leave for, the feature alone bounds the radius.
        reach = least.clamp(min=0, max=2 * self.table.pieces.largest_norm / self.smoothness)
        radii = reach + ((reach[0] - reach).square() + (margins / self.smoothness).square()).sqrt()
        best = int(radii.argmax())
        if best == 0:
            return float(radii[0]), BISECTORS
        return float(radii[best]), LIPSCHITZ if float(reach[best]) == 0 and float(reach[0]) == 0 else COMBINED

    def _leaving_distances(self, rounding: float) -> Tensor:
        """Return lower bounds (N,) of `max_i (f_i(w) - f_j(w) - eta) / |z_i - z_j|`."""
        values, pieces = self.values, self.table.pieces
        top = values.topk(min(_LARGEST, len(values))).indices
        # No two pieces are further apart than the sum of their distances to the center.
        gaps = values[top[0]] - values - rounding
        apart = self.table.spreads + self.table.spreads[top[0]] + torch.finfo(torch.float64).tiny
        distances = gaps / apart
        closest = distances.topk(min(_MEASURED, len(distances)), largest=False).indices
        near, best = pieces.features[closest].double(), pieces.features[top].double()
        apart = torch.cdist(near, best, compute_mode="donot_use_mm_for_euclid_dist") * (1 + 1e-12)
        gaps = values[top].unsqueeze(0) - values[closest].unsqueeze(1) - rounding
        # Of two pieces with one feature the smaller is never active, unless they tie.
        exact = torch.where(apart > 0, gaps / apart, torch.where(gaps > 0, torch.inf, -torch.inf))
        distances[closest] = torch.maximum(distances[closest], exact.amax(1))
        return distances

    def _solver_error(self, within: float) -> float:
        """Bound the error of the feature of any solved row within this distance of the point."""
        pieces, norm = self.table.pieces, self.table.pieces.largest_norm
        place = float(self.place.norm()) + within
        # As the solver measures the size of its values.
        size = norm * place + pieces.largest_offset + 4 * norm * norm / self.smoothness
        tolerance = CuttingPlanes().tolerance + 4 * (pieces.dimension + 8) * torch.finfo(torch.float64).eps
        return (self.smoothness * tolerance * size) ** 0.5
