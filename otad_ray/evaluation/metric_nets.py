"""What a metric net is worth: whether the neighbors that it finds are of one class."""

import torch
from torch import Tensor

from otad_ray.data import Batch
from otad_ray.models import MetricNet

# Rows of the second part that vote; more say little more.
_ROWS = 1000
_BATCH = 256


def neighbor_accuracy(net: MetricNet, train: Batch, test: Batch, *, neighbors: int) -> dict[str, float]:
    """Accuracy of a vote among the K nearest training rows, of the first test rows: fractions by name.

    neighbor_accuracy: nearest by the net's keys; neighbor_accuracy_inputs: by the inputs themselves.
    """
    from sklearn.neighbors import KNeighborsClassifier

    device = next(net.parameters()).device
    x, y = test.x[:_ROWS], test.y[:_ROWS]

    @torch.no_grad()
    def keys(inputs: Tensor) -> Tensor:
        return torch.cat([net(batch.to(device)).cpu() for batch in inputs.split(_BATCH)])

    def accuracy(fitted: Tensor, asked: Tensor) -> float:
        vote = KNeighborsClassifier(neighbors, algorithm="brute").fit(fitted.numpy(), train.y.numpy())
        return float(vote.score(asked.numpy(), y.numpy()))

    return {
        "neighbor_accuracy": accuracy(keys(train.x), keys(x)),
        "neighbor_accuracy_inputs": accuracy(train.x.flatten(1), x.flatten(1)),
    }
