"""Training of a backbone, equation (14): classification loss plus the transport energy."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from otad_ray.models import Backbone


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """SGD with momentum and a cosine schedule, after the paper's Section V.A.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows a step.
        learning_rate: at the start of the cosine schedule.
        momentum: of SGD.
        weight_decay: of SGD.
        energy_weight: alpha of (14), on the mean over samples of the path energy (13).
        seed: of initialization and order.
        rows: train, the whole training part, or fit, less the validation tenth, to choose hyperparameters.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    energy_weight: float = 0.01
    seed: int = 0
    rows: Literal["train", "fit"] = "train"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "momentum", "weight_decay", "energy_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"need a finite {name} >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """Means over the rows of one epoch: loss and energy of (14), and training accuracy as a fraction."""

    epoch: int
    loss: float
    energy: float
    accuracy: float


def train_backbone(
    backbone: Backbone,
    inputs: Tensor,
    targets: Tensor,
    config: TrainingConfig,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Backbone:
    """Minimize (14) over the backbone's parameters, in place, on the device they are on.

    inputs (N, *shape) and targets (N,) int64. Deterministic for a seed on one machine. Raises FloatingPointError
    when the loss is no longer finite.
    """
    device = next(backbone.parameters()).device
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.SGD(
        backbone.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    steps = config.epochs * math.ceil(len(inputs) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    backbone.train()
    for epoch in range(1, config.epochs + 1):
        totals = torch.zeros(3, dtype=torch.float64)
        for index in _shuffled_batches(len(inputs), config.batch_size, generator):
            batch, labels = inputs[index].to(device), targets[index].to(device)
            features, energy = backbone.transport(backbone.embed(batch))
            logits = backbone.head(features)
            loss = nn.functional.cross_entropy(logits, labels) + config.energy_weight * energy.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            correct = (logits.argmax(1) == labels).double().mean()
            totals += len(index) * torch.stack([loss.detach().double(), energy.detach().double().mean(), correct]).cpu()
        loss_mean, energy_mean, accuracy_mean = (totals / len(inputs)).tolist()
        if not math.isfinite(loss_mean):
            raise FloatingPointError(
                f"the training loss is {loss_mean} in epoch {epoch}; lower learning_rate ({config.learning_rate})"
            )
        on_epoch(EpochMetrics(epoch=epoch, loss=loss_mean, energy=energy_mean, accuracy=accuracy_mean))
    return backbone.eval()


@torch.no_grad()
def accuracy(backbone: Backbone, inputs: Tensor, targets: Tensor, *, batch_size: int = 1024) -> float:
    """Share of rows whose largest logit is their class."""
    device = next(backbone.parameters()).device
    correct = sum(
        int(
            (
                backbone(inputs[start : start + batch_size].to(device)).argmax(1).cpu()
                == targets[start : start + batch_size]
            ).sum()
        )
        for start in range(0, len(inputs), batch_size)
    )
    return correct / len(inputs)


def _shuffled_batches(num_rows: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    yield from torch.randperm(num_rows, generator=generator).split(batch_size)
