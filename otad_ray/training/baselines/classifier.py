"""Training of a classifier or regressor on inputs that are changed before each step: by noise, or by an attack."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from otad_ray.training.loop import BatchRows, InPrecision, LoopConfig, Step, full_precision, minimize
from otad_ray.training.objectives import CLASSIFICATION, REGRESSION, Objective
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import Samples
from otad_ray.training.state import EpochMetrics, TrainingStore

# Maps inputs (B, *shape) and targets (B,) to the inputs that a step is taken on.
Change = Callable[[Tensor, Tensor], Tensor]


def train_on_changed_inputs(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    config: LoopConfig,
    change: Change,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> None:
    """Minimize the loss on changed inputs over the network's parameters, in place, as `minimize` does.

    Args:
        network: maps inputs (B, *shape) to logits (B, C), or (B, 1) in regression.
        inputs: (N, *shape).
        targets: (N,) int64 classes, or floats for the mean squared error.
        config: of the loop.
        change: called once a step. What it draws must come from torch's global generator, which is seeded.
        on_epoch: called after each epoch.
        store: where checkpoints are kept.
    """
    minimize(ChangedInputs(network, inputs, targets, config, change), config, on_epoch=on_epoch, store=store)


class ChangedInputs:
    """The loss of a network on inputs that are changed before each step."""

    def __init__(self, network: nn.Module, inputs: Tensor, targets: Tensor, config: LoopConfig, change: Change) -> None:
        self.network = network
        self.forward = InPrecision(network, config.precision)
        self.num_rows = len(inputs)
        self._objective: Objective = REGRESSION if targets.is_floating_point() else CLASSIFICATION
        self._samples = Samples(inputs, targets, "none", config.seed)
        self._change = change

    @property
    def identity(self) -> Any:
        return self._samples.identity

    def start_epoch(self, epoch: int) -> None:
        self._samples.start_epoch(epoch)

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        device = next(self.network.parameters()).device
        inputs = self._samples.take_inputs(batch.share, device)
        targets = self._samples.labels[batch.share].to(device)
        outputs = full_precision(forward(self._change(inputs, targets)))
        loss = self._objective.loss(outputs, targets)
        return Step(loss, {"loss": loss, self._objective.metric: self._objective.score(outputs, targets)})
