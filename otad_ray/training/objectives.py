"""What a backbone's outputs are held against: classes or real targets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from otad_ray.errors import InputError
from otad_ray.models import Backbone


@dataclass(frozen=True)
class Objective:
    """A loss and the metric that people read. Both are sums over rows: outputs (B, C), targets (B,) -> scalar."""

    metric: Literal["accuracy", "mse"]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


def _correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).sum()


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(1) - targets).square().sum()


CLASSIFICATION = Objective("accuracy", _cross_entropy, _correct)
REGRESSION = Objective("mse", _squared_error, _squared_error)


def objective_of(backbone: Backbone, inputs: Tensor, targets: Tensor) -> Objective:
    """Regression for targets of a floating dtype, else classification.

    InputError for rows that cannot be trained on: none at all, not one target each, or not what the backbone puts out.
    """
    if not len(inputs) or targets.shape != (len(inputs),):
        raise InputError(
            f"need at least one row and one target per row, got inputs {tuple(inputs.shape)}, "
            f"targets {tuple(targets.shape)}"
        )
    if targets.is_floating_point():
        if backbone.num_outputs != 1:
            raise InputError(f"regression needs a backbone with num_outputs = 1, got {backbone.num_outputs}")
        return REGRESSION
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= backbone.num_outputs:
        raise InputError(
            f"targets must be classes 0 .. {backbone.num_outputs - 1} (num_outputs = {backbone.num_outputs}), "
            f"got {low} .. {high}; real targets need a floating dtype"
        )
    return CLASSIFICATION


def held_out_metric(
    backbone: Backbone, inputs: Tensor, targets: Tensor, *, batch_size: int = 1024
) -> tuple[Literal["accuracy", "mse"], float]:
    """The objective's metric, by name, with its mean over rows the backbone was not trained on."""
    objective = objective_of(backbone, inputs, targets)
    return objective.metric, _mean_score(objective, backbone, inputs, targets, batch_size)


def accuracy(network: nn.Module, inputs: Tensor, targets: Tensor, *, batch_size: int = 1024) -> float:
    """Share of rows whose largest logit, of a network in evaluation mode, is their class."""
    return _mean_score(CLASSIFICATION, network, inputs, targets, batch_size)


def mean_squared_error(network: nn.Module, inputs: Tensor, targets: Tensor, *, batch_size: int = 1024) -> float:
    """Mean over rows of the squared difference between output and target."""
    return _mean_score(REGRESSION, network, inputs, targets, batch_size)


@torch.no_grad()
def _mean_score(objective: Objective, network: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int) -> float:
    device = next(network.parameters()).device
    batches = zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
    return sum(float(objective.score(network(x.to(device)), y.to(device))) for x, y in batches) / len(inputs)
