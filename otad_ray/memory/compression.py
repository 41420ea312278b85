"""The compressed potential: pieces that are means over clusters of training points, so that there are few of them."""

import torch
from torch import Tensor

from otad_ray.cip import Pieces, make_pieces
from otad_ray.errors import InputError
from otad_ray.memory.neighbor_memory import NeighborMemory
from otad_ray.memory.potential import BLOCK_ROWS, PotentialConfig, move_blocks

# Steps of Lloyd's method; most points stay where they are long before.
_MAX_STEPS = 30


def check_compression(memory: NeighborMemory, config: PotentialConfig) -> None:
    """Raise InputError unless the memory's points can be clustered into so many pieces, in each class at least one."""
    if config.pieces is None:
        return
    num_classes = len(_number_classes(memory).unique())
    if not num_classes <= config.pieces <= len(memory):
        raise InputError(
            f"potential.pieces is {config.pieces}; {memory.directory} has {len(memory)} points in {num_classes} "
            "class(es): take a number from the latter to the former"
        )


def cluster_points(memory: NeighborMemory, config: PotentialConfig) -> Tensor:
    """Cluster the points of each class by k-means, the classes in proportion to their rows.

    Rows with targets of a regression are one class.

    Args:
        memory: The points and labels.
        config: The number of pieces, and the seed of the first centers.

    Returns:
        The cluster (N,) of each row, int64, numbered from 0. There may be fewer than asked for if points coincide.
    """
    check_compression(memory, config)
    assert config.pieces is not None
    classes = _number_classes(memory)
    generator = torch.Generator().manual_seed(config.seed)
    clusters, first = torch.empty_like(classes), 0
    for label, count in enumerate(_share_out(torch.bincount(classes), config.pieces).tolist()):
        rows = (classes == label).nonzero().squeeze(1)
        near = _run_lloyd(memory.points[rows.to(memory.points.device)], count, generator)
        clusters[rows] = first + near.cpu()
        first += int(near.amax()) + 1
    return clusters


def average_pieces(memory: NeighborMemory, potentials: Tensor, clusters: Tensor, config: PotentialConfig) -> Pieces:
    """Return a piece for each cluster: its mean point and feature, and the potential there.

    With the moved features and potentials of `move_pieces`, each row tells the potential at its cluster's mean by the
    rule that edges are measured by, `u_i - <z_i + z, x_i - x> / 2`; the mean of these is taken.

    Args:
        memory: The points x and features z.
        potentials: u (N,), float64, of the features as they are.
        clusters: The cluster (N,) of each row.
        config: L and beta.
    """
    width, numbers = memory.features.shape[1], clusters.to(memory.features.device)
    counts = torch.bincount(numbers)
    sums = torch.zeros(len(counts), 2 * width + 1, dtype=torch.float64, device=numbers.device)
    blocks = zip(move_blocks(memory, potentials, config), numbers.split(BLOCK_ROWS), strict=True)
    for (block, moved, values), near in blocks:
        points, features = block.double(), moved.double()
        # The deviations from the mean add up to nothing, so that products of the means are added in the end.
        told = values - (points * features).sum(1) / 2
        sums.index_add_(0, near, torch.cat([points, features, told.unsqueeze(1)], 1))
    points, features, values = (sums / counts.unsqueeze(1)).split([width, width, 1], 1)
    at_means = values.squeeze(1) + (points * features).sum(1) / 2
    dtype = memory.features.dtype
    return make_pieces(points.to(dtype), features.to(dtype), at_means, config.smoothness)


def average_rows(rows: Tensor, clusters: Tensor) -> Tensor:
    """Return the means (M, E), float64, of rows (N, E) over their clusters (N,), numbered from 0 without a gap."""
    clusters = clusters.to(rows.device)
    counts = torch.bincount(clusters)
    sums = rows.new_zeros(len(counts), rows.shape[1], dtype=torch.float64)
    for block, near in zip(rows.split(BLOCK_ROWS), clusters.split(BLOCK_ROWS), strict=True):
        sums.index_add_(0, near, block.double())
    return sums / counts.unsqueeze(1)


def _number_classes(memory: NeighborMemory) -> Tensor:
    """Return the class (N,) of each row, numbered from 0 without a gap; 0 for targets of a regression."""
    labels = memory.labels.cpu()
    if labels.is_floating_point():
        return torch.zeros(len(labels), dtype=torch.int64)
    return labels.unique(return_inverse=True)[1]


def _share_out(counts: Tensor, total: int) -> Tensor:
    """Share `total` pieces out among classes of so many rows (C,): one each, and the rest by largest remainders."""
    others = counts - 1
    exact = others.double() * (total - len(counts)) / max(1, int(others.sum()))
    shares = exact.floor().long()
    missing = total - len(counts) - int(shares.sum())
    shares[(exact - shares).argsort(descending=True, stable=True)[:missing]] += 1
    return shares + 1


def _run_lloyd(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Cluster points (n, D) into at most `count` clusters from random ones of them; return their numbers (n,)."""
    first = torch.randperm(len(points), generator=generator)[:count]
    centers = points[first.to(points.device)]
    near = _find_nearest(points, centers)
    for _ in range(_MAX_STEPS):
        centers = average_rows(points, near).to(points)
        moved = _find_nearest(points, centers)
        if torch.equal(moved, near):
            break
        near = moved
    return near


def _find_nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Return the nearest center (n,) of each point, by products; centers that have none are left out of the numbers."""
    squares = centers.square().sum(1) / 2
    near = torch.cat([(squares - block @ centers.T).argmin(1) for block in points.split(BLOCK_ROWS)])
    return near.unique(return_inverse=True)[1]
