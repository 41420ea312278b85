"""Certificate of the potential over all training points, whose feature is L-Lipschitz everywhere.

At the input x let `z = sum_i s_i z_i` be the feature, `w = x - z / L` the proximal point, and
`level = sum_i s_i f_i(w)`. Let x' be another input, with feature z' and proximal point w', at which a rival class b
beats the predicted class a: the margin `m(z') = <h, z'> + beta` is at most 0, with `h = h_a - h_b` and a beta that
allows for all that rounding and the solver's error at x' may take. Let `t = |z' - z|`. Because
`x' - x = w' - w + (z' - z) / L`,

    |x' - x|^2 = |w' - w|^2 + t^2 / L^2 + 2 <w' - w, z' - z> / L,

and four things keep this from being small:

- The feature must reach the border of the class: `t >= n` with `n = m(z) / |h|`.
- Some piece j with `m(z_j) <= 0` must become the largest one. With `eta` for the rounding of a difference of values,
  `|w' - w| >= T = min over such j of  max over i of (f_i(w) - f_j(w) - eta) / |z_i - z_j|`, bisectors of the power
  diagram.
- The pieces with weight s' at x' are the largest ones at w', so that `<w' - w, z' - z> >= sum_k s'_k sigma_k` with
  `sigma_k = level - f_k(w)`, how far piece k lies below the solution at x: at least -gap.
- For every `lambda >= 0` and every vector p, because `m(z') <= 0`,

      sum_k s'_k sigma_k >= sum_k s'_k (sigma_k + lambda m(z_k) + <p, z_k - z>) - <p, z' - z> >= mu - |p| t,
      mu = level + lambda beta - <p, z> - max_k f_k(w - lambda h - p).

Together with `|w' - w| >= <w' - w, z' - z> / t` they give

    |x' - x|^2 >= min over t >= n of  max(T, mu / t - |p|)^2 + t^2 / L^2 + 2 max(-gap, mu - |p| t) / L.

Without a walk, at `mu = 0`, this is `T^2 + (n / L)^2`. The best p for a lambda is near `(z(y) - z) / L`, for the
feature at `y = x - lambda h`, and the best lambda is where that y meets the border, `m(z(y)) = 0`: one walks from x
against the slope of the margin up to the border, and looks back. Where one right and one wrong piece decide, the bound
is exact.

None of this assumes that x or y is solved exactly: `level` and z belong to the weights that the solver returned at x,
and p to the place that it returned for y.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from otad_ray.certification.certificate import Certificate
from otad_ray.certification.global_potential.border_walk import BELOW, BorderWalk, Obstacles, Start, bound_distance
from otad_ray.certification.margins import AffineHead
from otad_ray.certification.motion import Motion
from otad_ray.cip import CuttingPlanes, GlobalSolution, Pieces, Status
from otad_ray.defenses import OTADGlobal

LIPSCHITZ, WITH_BISECTORS, BORDER_WALK = "lipschitz", "lipschitz_and_bisectors", "border_walk"

# Inputs certified at a time: enough to share each pass over the pieces; values of all pieces are held in float64.
_BLOCK_ROWS = 256
# Pieces i of largest value that bisectors are formed with, and pieces j that they are formed for, closest ones first.
_LARGEST, _MEASURED = 24, 384


class PieceTable:
    """What certificates need of every piece: computed once for a defense's pieces and its head."""

    def __init__(self, pieces: Pieces, head: AffineHead) -> None:
        self.pieces, self.head = pieces, head
        blocks = pieces.features.split(8192)
        self.logits = torch.cat([head.logits(block) for block in blocks])
        self.center = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(pieces)
        self.spreads = torch.cat([(block.double() - self.center).norm(dim=1) for block in blocks])
        self.rounding = head.rounding(self.logits.new_tensor([pieces.largest_norm]))[0]
        # No radius is larger. Errors at other inputs grow with their distance.
        self.largest_radius = pieces.largest_norm


_tables: WeakKeyDictionary[OTADGlobal, PieceTable] = WeakKeyDictionary()


def certify_pieces(defense: OTADGlobal, inputs: Tensor, head: AffineHead, motion: Motion) -> Certificate:
    """Return the certificate, as explained above, of inputs (B, *shape) float32.

    Rows that failed get 0. Within the radius the program must be solved to the solver's tolerance, as it was here.

    Args:
        defense: The defense.
        inputs: The inputs around which radii are wanted.
        head: Its affine head.
        motion: How points move with the input.
    """
    table = _tables.get(defense)
    if table is None or table.pieces is not defense.pieces or not table.head.agrees_with(head):
        table = _tables[defense] = PieceTable(defense.pieces, head)
    parts = [_certify_block(defense, block, table, motion) for block in inputs.split(_BLOCK_ROWS)]
    return Certificate(torch.cat([part.radius for part in parts]), [name for part in parts for name in part.method])


def _certify_block(defense: OTADGlobal, inputs: Tensor, table: PieceTable, motion: Motion) -> Certificate:
    logits, _, solution = defense.forward_details(inputs)
    device = solution.proximal.device
    found, method = torch.zeros(len(inputs), dtype=torch.float64, device=device), [""] * len(inputs)
    solved = (solution.status == Status.SOLVED).nonzero().squeeze(1)
    if len(solved):
        rows = _SolvedRows(
            table,
            defense.smoothness,
            GlobalSolution(**{name: tensor[solved] for name, tensor in vars(solution).items()}),
            defense.find_points(inputs).to(solution.proximal)[solved],
            logits.argmax(1).to(device)[solved],
        )
        found[solved], names = rows.certify()
        for row, name in zip(solved.tolist(), names, strict=True):
            method[row] = name
    norms = inputs.flatten(1).double().norm(dim=1).to(found)
    radius = torch.where(found > 0, motion.radius(found * BELOW, norms) * BELOW, 0)
    return Certificate(
        radius.to(inputs.device), [name if size > 0 else "" for name, size in zip(method, radius.tolist(), strict=True)]
    )


class _SolvedRows:
    """Solved inputs, and what keeps their rivals from winning."""

    def __init__(
        self, table: PieceTable, smoothness: float, solution: GlobalSolution, points: Tensor, predicted: Tensor
    ) -> None:
        """Measure all pieces at the proximal points.

        Args:
            table: What is known of the pieces.
            smoothness: L.
            solution: That of n rows.
            points: Their points x (n, D), float64.
            predicted: Their classes a (n,), int64.
        """
        self._table, self._smoothness, place = table, smoothness, solution.proximal
        self._values = table.pieces.values(place)
        self._rounding = 2 * table.pieces.rounding(place, torch.float64)
        level = (solution.weights * self._values.gather(1, solution.index)).sum(1)
        gap = (self._values.amax(1) - level).clamp_min(0) + self._rounding
        # In float64: the feature that the head is given was rounded, which its own allowance covers.
        feature = smoothness * (points - place)
        self._start = Start(points, place, feature, level, gap, solution.index, predicted)

    def certify(self) -> tuple[Tensor, list[str]]:
        """Return how far the points may move (n,), and what proves it."""
        table, start = self._table, self._start
        obstacles = self._find_obstacles()
        bounds = bound_distance(self._smoothness, start.gap.unsqueeze(1), obstacles)
        bounds = bounds.scatter(1, start.predicted.unsqueeze(1), torch.inf)
        walk = BorderWalk(table.pieces, table.head, self._smoothness, start, obstacles, table.largest_radius)
        radius, rivals = walk.improve(bounds).min(1)
        rivals = rivals.unsqueeze(1)
        walked = radius > bounds.gather(1, rivals).squeeze(1)
        bisected = obstacles.bisector.gather(1, rivals).squeeze(1) > 0
        names = [
            BORDER_WALK if walk else WITH_BISECTORS if bisector else LIPSCHITZ
            for walk, bisector in zip(walked.tolist(), bisected.tolist(), strict=True)
        ]
        radius = radius.clamp(max=table.largest_radius)
        # Points that were lifted into the features' space were rounded in float64.
        terms = (table.pieces.dimension + 8) * torch.finfo(torch.float64).eps
        return (radius - 2 * terms * (start.point.norm(dim=1) + radius)).clamp_min(0), names

    def _find_obstacles(self) -> Obstacles:
        """Return what keeps rivals from winning; a rival that may win already has a depth and a bisector of 0."""
        head, rounding, predicted = self._table.head, self._table.rounding, self._start.predicted
        own, apart = predicted.unsqueeze(1), head.distances[predicted]
        elsewhere = self._solver_error().unsqueeze(1) * apart
        allowance = rounding[predicted].unsqueeze(1) + rounding + elsewhere
        logits = head.logits(self._start.feature)
        depth = ((logits.gather(1, own) - logits - allowance) / apart).clamp_min(0)
        bisector = torch.stack([self._bisectors(row, allowance[row]) for row in range(len(depth))]).clamp_min(0)
        return Obstacles(allowance, depth, torch.where(depth > 0, bisector, 0))

    def _bisectors(self, row: int, allowance: Tensor) -> Tensor:
        """Return for every rival (C,) how far w must move before a piece that the rival wins is the largest one."""
        predicted, logits = int(self._start.predicted[row]), self._table.logits
        won = logits[:, predicted : predicted + 1] - logits - allowance <= 0
        return torch.where(won, self._leaving_distances(row).unsqueeze(1), torch.inf).amin(0)

    def _leaving_distances(self, row: int) -> Tensor:
        """Return lower bounds (N,) of `max_i (f_i(w) - f_j(w) - eta) / |z_i - z_j|`."""
        values, pieces, spreads = self._values[row], self._table.pieces, self._table.spreads
        rounding = self._rounding[row]
        top = values.topk(min(_LARGEST, len(values))).indices
        # No two pieces are further apart than the sum of their distances to the center.
        gaps = values[top[0]] - values - rounding
        distances = gaps / (spreads + spreads[top[0]] + torch.finfo(torch.float64).tiny)
        closest = distances.topk(min(_MEASURED, len(distances)), largest=False).indices
        near, best = pieces.features[closest].double(), pieces.features[top].double()
        apart = torch.cdist(near, best, compute_mode="donot_use_mm_for_euclid_dist") * (1 + 1e-12)
        gaps = values[top].unsqueeze(0) - values[closest].unsqueeze(1) - rounding
        # Of two pieces with one feature the smaller is never active, unless they tie.
        exact = torch.where(apart > 0, gaps / apart, torch.where(gaps > 0, torch.inf, -torch.inf))
        distances[closest] = torch.maximum(distances[closest], exact.amax(1))
        return distances

    def _solver_error(self) -> Tensor:
        """Bound (n,) the error of the feature of any solved row that a radius may reach."""
        pieces, norm = self._table.pieces, self._table.pieces.largest_norm
        place = self._start.place.norm(dim=1) + self._table.largest_radius
        # As the solver measures the size of its values.
        size = norm * place + pieces.largest_offset + 4 * norm * norm / self._smoothness
        tolerance = CuttingPlanes().tolerance + 4 * (pieces.dimension + 8) * torch.finfo(torch.float64).eps
        return (self._smoothness * tolerance * size).sqrt()
