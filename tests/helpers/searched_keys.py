"""Keys and queries for tests of search, whose distances float64 holds exactly, and the neighbors by brute force."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

# Coordinates are whole multiples of this, so that sums of their squares are exact, in any order.
_GRID = 2.0**-9


def on_grid(values: Tensor) -> Tensor:
    """Round values to float32 numbers whose squared differences float64 adds up exactly."""
    return (values / _GRID).round() * _GRID


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw Gaussian values on the grid."""
    return on_grid(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def draw_decaying(count: int, dimension: int, *, decay: float = 0.97, center: float = 0.0, seed: int = 0) -> Tensor:
    """Draw points whose variance lies in a few directions, as that of images does."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator)).Q
    spread = decay ** torch.arange(dimension)
    return on_grid(center + (torch.randn(count, dimension, generator=generator) * spread) @ rotation)


def _with_duplicates(count: int) -> Tensor:
    points = draw(count, 12, seed=count)
    return points[torch.arange(count) // 3]


def _on_a_lattice(count: int) -> Tensor:
    return torch.randint(0, 3, (count, 5), generator=torch.Generator().manual_seed(count)).float()


def _sorted_by_distance(count: int) -> Tensor:
    points = draw_decaying(count, 30, seed=count)
    return points[points.square().sum(1).argsort(descending=True)]


# Data sets by name: each gives so many keys.
KEYS: Mapping[str, Callable[[int], Tensor]] = {
    "isotropic": lambda count: draw(count, 40, seed=count),
    "isotropic_wide": lambda count: draw(count, 300, seed=count),
    "low_rank": lambda count: on_grid(draw(count, 3, seed=count) @ draw(3, 400, seed=1)),
    "decaying": lambda count: draw_decaying(count, 300, seed=count),
    "far_away": lambda count: draw_decaying(count, 60, center=1000.0, seed=count),
    "duplicates": _with_duplicates,
    "lattice": _on_a_lattice,
    "sorted": _sorted_by_distance,
    "constant": lambda count: torch.full((count, 20), 0.75),
    "zeros": lambda count: torch.zeros(count, 7),
    "one_dimension": lambda count: draw(count, 1, seed=count),
    "tiny": lambda count: draw(count, 20, seed=count) * 2.0**-100,
    "huge": lambda count: draw(count, 20, seed=count) * 2.0**52,
    "huge_and_tiny": lambda count: draw(count, 20, seed=count) * 2.0 ** (-3 * (torch.arange(count) % 3)).unsqueeze(1),
}


def draw_queries(keys: Tensor, count: int = 12) -> Tensor:
    """Return queries (count, E): keys, points near keys, one between two keys, one far away, and the origin."""
    some = keys[torch.arange(count) * 7919 % len(keys)].clone()
    third = count // 3
    spread = max(float(keys.std(correction=0)), float(keys.abs().max()) / 8) or 1.0
    unit = 2.0 ** round(np.log2(spread))
    some[third : 2 * third] += unit / 8 * draw(third, keys.shape[1], seed=5)
    some[-1] = 0.0
    some[-2] = 8 * some[0] + 4 * unit
    return some


def search_by_brute_force(keys: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return positions and distances (B, count) by all differences in float64, ordered by distance, then position."""
    differences = queries.double().numpy()[:, None] - keys.double().numpy()[None]
    squares = np.square(differences).sum(2)
    order = np.argsort(squares, axis=1, kind="stable")[:, :count]
    return torch.from_numpy(order), torch.from_numpy(np.sqrt(np.take_along_axis(squares, order, 1)))
