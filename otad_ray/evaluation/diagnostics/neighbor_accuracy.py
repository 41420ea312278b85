"""What a metric net is worth: whether the neighbors that it finds are of one class."""

import torch
from torch import Tensor

from otad_ray.data import Batch
from otad_ray.models import MetricNet

_BATCH = 256


def neighbor_accuracy(net: MetricNet, known: Batch, asked: Batch, *, num_neighbors: int) -> dict[str, float]:
    """Accuracy of a vote among the K nearest known rows, of the rows asked for: fractions by name.

    neighbor_accuracy: nearest by the net's keys; neighbor_accuracy_inputs: by the inputs themselves.
    """
    from sklearn.neighbors import KNeighborsClassifier

    device = next(net.parameters()).device

    @torch.no_grad()
    def keys(inputs: Tensor) -> Tensor:
        return torch.cat([net(batch.to(device)).cpu() for batch in inputs.split(_BATCH)])

    def accuracy(fitted: Tensor, queries: Tensor) -> float:
        vote = KNeighborsClassifier(num_neighbors, algorithm="brute").fit(fitted.numpy(), known.y.numpy())
        return float(vote.score(queries.numpy(), asked.y.numpy()))

    return {
        "neighbor_accuracy": accuracy(keys(known.x), keys(asked.x)),
        "neighbor_accuracy_inputs": accuracy(known.x.flatten(1), asked.x.flatten(1)),
    }
