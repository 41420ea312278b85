"""Training of a metric net: keys of one class near each other, of different classes apart (paper, Section IV.D)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from torch import Tensor, nn

from otad_ray.errors import InputError
from otad_ray.models import MetricNet
from otad_ray.training.augmentation import Augmentation
from otad_ray.training.loop import BatchRows, LoopConfig, Step, full_precision, minimize
from otad_ray.training.metric_losses import METRIC_LOSSES
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import SampleProblem
from otad_ray.training.state import EpochMetrics, TrainingStore


@dataclass(frozen=True, kw_only=True)
class MetricTrainingConfig(LoopConfig):
    """How a metric net is trained, on the rows that its backbone is trained on.

    Attributes:
        loss: triplet, with semi-hard mining in each batch, or contrastive.
        margin: of the loss, in the unit of distances between keys.
        augmentation: none, or crop_flip: images shifted by up to an eighth, and mirrored half of the time.
    """

    loss: str = "triplet"
    margin: float = 0.2
    augmentation: Augmentation = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in METRIC_LOSSES:
            raise InputError(f"unknown metric loss {self.loss!r}; known: {', '.join(METRIC_LOSSES)}")
        if not (isfinite(self.margin) and self.margin > 0):
            raise InputError(f"need a finite margin > 0, got {self.margin}")


def train_metric_net(
    net: MetricNet,
    inputs: Tensor,
    labels: Tensor,
    config: MetricTrainingConfig,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> MetricNet:
    """Minimize the loss over the net's parameters, in place, as `minimize` does.

    inputs (N, *shape); labels (N,) int64 classes. Pairs and triplets are those of the whole batch, whatever the number
    of processes. Raises InputError for rows that do not fit, and what `minimize` raises.
    """
    _check_rows(net, inputs, labels)
    minimize(_MetricProblem(net, inputs, labels, config), config, on_epoch=on_epoch, store=store)
    return net


class _MetricProblem(SampleProblem[MetricNet]):
    """The loss of pairs or triplets of a batch's keys."""

    def __init__(self, net: MetricNet, inputs: Tensor, labels: Tensor, config: MetricTrainingConfig) -> None:
        super().__init__(net, inputs, labels, config, augmentation=config.augmentation)
        self._loss = METRIC_LOSSES[config.loss](config.margin)

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        inputs, _ = self.take(batch.share)
        # Each process differentiates the whole batch's loss in its own keys: together that is its gradient.
        keys = group.gather_shares(full_precision(forward(inputs)), len(batch.whole))
        found = self._loss(keys, self.samples.labels[batch.whole].to(self.device))
        share = len(batch.share)
        sums = {"loss": found.loss * share, "active": found.loss.new_tensor(found.active * share / len(batch.whole))}
        return Step(found.loss * len(batch.whole), sums)


def _check_rows(net: MetricNet, inputs: Tensor, labels: Tensor) -> None:
    if not len(inputs) or labels.shape != (len(inputs),):
        raise InputError(
            f"need at least one row and one label per row, got inputs {tuple(inputs.shape)}, "
            f"labels {tuple(labels.shape)}"
        )
    if labels.is_floating_point():
        raise InputError(f"a metric net is trained on classes, got labels of {labels.dtype} (a regression)")
    if inputs.shape[1:] != net.shape:
        raise InputError(f"this metric net takes samples of shape {net.shape}, got {tuple(inputs.shape[1:])}")
