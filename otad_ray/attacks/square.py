"""Square Attack (Andriushchenko et al. 2020): random search by changes within squares, from outputs alone."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.budget import Budget
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.progress import Progress
from otad_ray.attacks.streams import Streams
from otad_ray.errors import InputError

# Channels, rows and columns of a sample.
Shape = tuple[int, int, int]

# Ten-thousandths of the queries after each of which the squares' area is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# A generator's call costs more than its draws: every sample draws for so many queries at once.
_DRAWN_QUERIES = 64
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search for the largest margin; a change is kept if the margin grows.

    Samples (C, H, W) are changed within squares, flat ones within segments of neighboring values.
    queries: of the search, after the one at the sample itself. first_share: part of a sample that a square covers at
    first; it shrinks along the paper's schedule, scaled to the queries.
    """

    kind: ClassVar[AttackKind] = "black_box"
    queries: int = 500
    first_share: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(f"need queries >= 1, got {self.queries}")
        if not 0 < self.first_share <= 1:
            raise InputError(f"need 0 < first_share <= 1, got {self.first_share}")

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.queries)

    def _run(self, target: Target) -> AttackResult:
        defense, x, budget, streams = target.defense, target.x, target.budget, target.streams
        progress = Progress(x, target.y, Goal("margin"))
        progress.evaluate(defense, progress.open, x)
        rows = progress.open
        if not len(rows):
            return progress.result()
        changes = _CHANGES[budget.norm]
        shape = _image_shape(x.shape[1:])
        original = x[rows].reshape(-1, *shape)
        # The search goes on from its first point, even where that is worse than the sample.
        current = changes.start(original, budget, streams.take(rows))
        scores = progress.evaluate(defense, rows, current.view(-1, *x.shape[1:]))
        for query in range(self.queries - 1):
            going = ~progress.reached[rows]
            if query % _DRAWN_QUERIES == 0 or not bool(going.all()):
                rows, original, current, scores = rows[going], original[going], current[going], scores[going]
                if not len(rows):
                    break
                if query % _DRAWN_QUERIES == 0:
                    draws = streams.take(rows).uniform(_DRAWN_QUERIES, changes.num_draws(shape)).to(x)
                else:
                    draws = draws[going]
            window = changes.window(self.share(query), shape)
            moved = changes.propose(original, current, window, draws[:, query % _DRAWN_QUERIES], budget)
            found = progress.evaluate(defense, rows, moved.view(-1, *x.shape[1:]))
            better = found > scores
            scores = torch.where(better, found, scores)
            current = torch.where(better.view(-1, 1, 1, 1), moved, current)
        return progress.result()

    def share(self, query: int) -> float:
        """Part of the sample that the squares of a query cover."""
        return self.first_share / 2 ** bisect_left(_HALVINGS, int(10_000 * query / self.queries))


class _Changes(Protocol):
    """How a norm's perturbations are begun and changed; images (n, C, H, W), draws uniform in [0, 1)."""

    def start(self, x: Tensor, budget: Budget, streams: Streams) -> Tensor:
        """The first points (n, C, H, W)."""

    def num_draws(self, shape: Shape) -> int:
        """Draws that a change takes."""

    def window(self, share: float, shape: Shape) -> tuple[int, int]:
        """Rows and columns of a change."""

    def propose(self, x: Tensor, current: Tensor, window: tuple[int, int], draws: Tensor, budget: Budget) -> Tensor:
        """Points (n, C, H, W) beside the current ones, by draws (n, num_draws)."""


class _LinfChanges:
    """A square takes the value +-eps, one sign a channel."""

    def start(self, x: Tensor, budget: Budget, streams: Streams) -> Tensor:
        """Vertical stripes of +-eps."""
        channels, _, width = x.shape[1:]
        return budget.clip(x + budget.inner_eps * _signs(streams.uniform(channels, 1, width).to(x)))

    def num_draws(self, shape: Shape) -> int:
        return 2 + shape[0]

    def window(self, share: float, shape: Shape) -> tuple[int, int]:
        return _window_size(share, shape, least=1)

    def propose(self, x: Tensor, current: Tensor, window: tuple[int, int], draws: Tensor, budget: Budget) -> Tensor:
        flat, start = current.flatten(2), x.flatten(2)
        places = _places(draws[:, :2], window, x)
        center, before = start.gather(2, places), flat.gather(2, places)
        step = budget.inner_eps * _signs(draws[:, 2:]).unsqueeze(2)
        after = budget.clip(center + step)
        # What would change nothing is asked with the other sign, as in the paper's own code.
        same = (after == before).flatten(1).all(1).view(-1, 1, 1)
        after = torch.where(same, budget.clip(center - step), after)
        return flat.scatter(2, places, after).view_as(x)


class _L2Changes:
    """A square gets the norm of another, which is cleared, and what is left of the budget, as two opposite hills."""

    def start(self, x: Tensor, budget: Budget, streams: Streams) -> Tensor:
        """Tiles of opposite hills, about 5 x 5 of them, with a random sign a channel."""
        channels, height, width = x.shape[1:]
        size = _tile_size(height, width)
        down, across = height // size[0], width // size[1]
        draws = streams.uniform(channels + 1, down, across).to(x)
        hills = _hills(*size).to(x)[(draws[:, 0] < 0.5).long()]
        tiles = _signs(draws[:, 1:])[..., None, None] * hills.unsqueeze(1)
        delta = torch.zeros_like(x)
        top, left = (height - down * size[0]) // 2, (width - across * size[1]) // 2
        inner = delta[:, :, top : top + down * size[0], left : left + across * size[1]]
        inner.copy_(tiles.transpose(3, 4).reshape(inner.shape))
        return _at_radius(x, delta.flatten(2), budget)

    def num_draws(self, shape: Shape) -> int:
        return 5 + shape[0]

    def window(self, share: float, shape: Shape) -> tuple[int, int]:
        return _window_size(share, shape, least=3)

    def propose(self, x: Tensor, current: Tensor, window: tuple[int, int], draws: Tensor, budget: Budget) -> Tensor:
        delta = (current - x).flatten(2)
        unused = (budget.eps**2 - delta.square().sum((1, 2), keepdim=True)).clamp_min(0) / x.shape[1]
        changed, cleared = _places(draws[:, :2], window, x), _places(draws[:, 2:4], window, x)
        before = delta.gather(2, changed)
        in_changed = before.square().sum(2, keepdim=True)
        delta.scatter_(2, changed, 0.0)
        # Where the squares overlap, this is zero by now and not counted twice.
        in_cleared = delta.gather(2, cleared).square().sum(2, keepdim=True)
        delta.scatter_(2, cleared, 0.0)
        hills = _hills(*window).to(x).flatten(1)[(draws[:, 4] < 0.5).long()].unsqueeze(1)
        after = before / (in_changed.sqrt() + _TINY) + _signs(draws[:, 5:]).unsqueeze(2) * hills
        length = (unused + in_changed + in_cleared).sqrt()
        after *= length / (after.square().sum(2, keepdim=True).sqrt() + _TINY)
        delta.scatter_(2, changed, after)
        return _at_radius(x, delta, budget)


_CHANGES: dict[str, _Changes] = {"l2": _L2Changes(), "linf": _LinfChanges()}


def _image_shape(shape: torch.Size) -> Shape:
    """The last two axes are rows and columns; samples with one value per channel are flat."""
    *leading, height, width = (1, 1, *shape)
    if height * width == 1:
        return 1, 1, shape.numel()
    return torch.Size(leading).numel(), height, width


def _window_size(share: float, shape: Shape, least: int) -> tuple[int, int]:
    """A square of about that share of the image's area, or what of it fits; of odd side where it is at least 3."""
    _, height, width = shape
    area = share * height * width
    side = max(round(sqrt(area)), least)
    if least > 1:
        side += 1 - side % 2
    short = min(height, width)
    if side <= short:
        return side, side
    long = min(max(round(area / short), least), max(height, width))
    return (short, long) if height <= width else (long, short)


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """Sides of the first tiles; in a flat sample as many tiles as in an image."""
    if min(height, width) == 1:
        return max(height // 25, 1), max(width // 25, 1)
    side = max(min(height, width) // 5, 1)
    return side, side


def _places(draws: Tensor, window: tuple[int, int], x: Tensor) -> Tensor:
    """Flat positions (n, C, a * b) of windows (a, b) whose corners are drawn (n, 2); the same in every channel."""
    _, channels, height, width = x.shape
    top = (draws[:, 0] * (height - window[0] + 1)).long()
    left = (draws[:, 1] * (width - window[1] + 1)).long()
    offsets = _offsets(*window, width).to(x.device)
    return ((top * width + left).unsqueeze(1) + offsets).unsqueeze(1).expand(-1, channels, -1)


@lru_cache(maxsize=64)
def _offsets(rows: int, columns: int, width: int) -> Tensor:
    """Flat positions (rows * columns,) of a window in the corner of an image so wide."""
    return (width * torch.arange(rows).unsqueeze(1) + torch.arange(columns)).flatten()


@lru_cache(maxsize=64)
def _hills(rows: int, columns: int) -> Tensor:
    """Two patterns (2, rows, columns) of norm 1: opposite hills side by side, and one above the other.

    Where a window is one row or column, both are the only one there is.
    """
    beside = torch.cat([_hill(rows, columns // 2), -_hill(rows, columns - columns // 2)], 1)
    above = torch.cat([_hill(rows // 2, columns), -_hill(rows - rows // 2, columns)], 0)
    both = torch.stack([beside if columns > 1 else above, above if rows > 1 else beside])
    return both / both.flatten(1).norm(dim=1).view(2, 1, 1)


def _hill(rows: int, columns: int) -> Tensor:
    """Values (rows, columns) that fall off in square rings around the middle: the sum of 1 / k^2 beyond a ring."""
    distance = torch.maximum(
        (torch.arange(rows) - rows // 2).abs().unsqueeze(1), (torch.arange(columns) - columns // 2).abs()
    )
    rings = torch.arange(1, max(rows // 2, columns // 2) + 2).float() ** -2
    return rings.flip(0).cumsum(0).flip(0)[distance]


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws)


def _at_radius(x: Tensor, delta: Tensor, budget: Budget) -> Tensor:
    """Images at perturbations (n, C, H * W) stretched to length eps, then clipped."""
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1)
    return budget.clip(x + (delta * (budget.inner_eps / (length + _TINY))).view_as(x))
