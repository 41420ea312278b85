"""Training of a potential's offsets, N numbers, for wide leave-one-out margins; the network stays as it is."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from otad_ray.cip import Pieces, Status, integrate_globally
from otad_ray.errors import InputError
from otad_ray.models import LinearMargins

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OffsetTrainingConfig:
    """How the offsets of the potential over all training points are trained after the least squares.

    Attributes:
        rows: training rows that steps are taken on, a seeded sample; 0 leaves the offsets as the least squares give
            them.
        epochs: passes over these rows.
        batch_size: rows a step.
        learning_rate: of plain gradient steps on the sum over a batch, at the start of a linear schedule down to 0.
        radius: rows whose certified radius falls short of it are pushed, in the unit of points.
        seed: of the rows and their order.
    """

    rows: int = 0
    epochs: int = 1
    batch_size: int = 256
    learning_rate: float = 1.0
    radius: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 0), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise InputError(f"need offset_training.{name} >= {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "radius"):
            if not 0 < getattr(self, name) < torch.inf:
                raise InputError(f"need offset_training.{name} > 0, got {getattr(self, name)}")


def train_offsets(
    pieces: Pieces,
    points: Tensor,
    labels: Tensor,
    margins: LinearMargins,
    smoothness: float,
    config: OffsetTrainingConfig,
) -> Pieces:
    """Train the offsets on leave-one-out margins of training rows, through the implicit gradient.

    The loss of a row is how far `n(z) / L`, the radius that the Lipschitz bound certifies, falls short of the radius
    that is aimed at; z is the feature at the row's point without its own piece. The map stays L-Lipschitz.

    Args:
        pieces: Those of the least squares, one for each row.
        points: x (N, D).
        labels: The classes (N,), int64.
        margins: The affine head.
        smoothness: L.
        config: How it is trained.

    Returns:
        The pieces with trained offsets.
    """
    offsets = pieces.offsets.clone()
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(points), generator=generator)[: config.rows]
    batches = [
        rows
        for _ in range(config.epochs)
        for rows in chosen[torch.randperm(len(chosen), generator=generator)].split(config.batch_size)
    ]
    for step, rows in enumerate(batches):
        rate = config.learning_rate * (1 - step / len(batches))
        shortfall, gradient = _differentiate(pieces, offsets, rows, points, labels, margins, smoothness, config.radius)
        offsets -= rate * gradient
        if step % max(1, len(batches) // 10) == 0:
            logger.info("step %d of %d: radii fall short by %.4f on average", step + 1, len(batches), shortfall)
    return Pieces(pieces.features, offsets)


def _differentiate(
    pieces: Pieces,
    offsets: Tensor,
    rows: Tensor,
    points: Tensor,
    labels: Tensor,
    margins: LinearMargins,
    smoothness: float,
    radius: float,
) -> tuple[float, Tensor]:
    """Return the mean shortfall of rows (n,), and the gradient (N,) of its sum in the offsets."""
    with torch.enable_grad():
        free = offsets.detach().requires_grad_()
        solution = integrate_globally(points[rows], Pieces(pieces.features, free), smoothness, exclude=rows)
        found = measure_depths(solution.feature.double(), labels[rows], margins) / smoothness
        shortfall = (radius - found).clamp_min(0) * (solution.status == Status.SOLVED)
        (gradient,) = torch.autograd.grad(shortfall.sum(), free)
    return float(shortfall.detach().mean()), gradient


def measure_depths(features: Tensor, labels: Tensor, margins: LinearMargins) -> Tensor:
    """Return `n(z) = min_b margin_yb(z) / |h_yb|` (n,) of features (n, D), float64, for the classes y (n,)."""
    weight, bias = margins.weight.detach().double(), margins.bias.detach().double()
    logits = features @ weight.T + bias
    own = labels.unsqueeze(1)
    apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[labels]
    ratio = (logits.gather(1, own) - logits) / apart.clamp_min(torch.finfo(torch.float64).tiny)
    return ratio.scatter(1, own, torch.inf).amin(1)
