"""Training of an l_inf-distance net: p grows from 8 to infinity while the loss turns from cross entropy to a hinge."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.defenses.baselines.linf_dist import LinfDistNet
from otad_ray.training.loop import BatchRows, LoopConfig, Step, check_float32, check_nonnegative
from otad_ray.training.objectives import CLASSIFICATION
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import SampleProblem

# As published for MNIST: p is 8 until epoch 25 of 450, grows to 1000 until epoch 400, and is infinite then.
_FIRST_P, _LAST_P = 8.0, 1000.0
_GROWS_FROM, _GROWS_TO = 25 / 450, 400 / 450
# The weight of the cross entropy, at the start and at the end.
_FIRST_WEIGHT, _LAST_WEIGHT = 0.05, 0.0002


@dataclass(frozen=True, kw_only=True)
class LinfDistSettings(LoopConfig):
    """How an l_inf-distance net is trained, and how large it is.

    Attributes:
        depth: layers, with the one of the logits.
        width: units of a layer.
        hinge: margin below which a row is penalized, in the unit of the inputs; twice the radius that is aimed at.
        temperature: what logits are multiplied by in the cross entropy.
    """

    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 0.03
    weight_decay: float = 0.0
    depth: int = 3
    width: int = 96
    hinge: float = 0.6
    temperature: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self, "hinge", "temperature")
        check_float32(self)


def schedule_p(progress: float) -> float:
    """Return p of the distances at a share of the training; it grows exponentially, and is infinite at the end."""
    if progress >= _GROWS_TO:
        return math.inf
    share = max(0.0, (progress - _GROWS_FROM) / (_GROWS_TO - _GROWS_FROM))
    return _FIRST_P * (_LAST_P / _FIRST_P) ** share


class LinfDistProblem(SampleProblem[LinfDistNet]):
    """The mixture of a scaled cross entropy and a hinge on the margin, whose weights follow the progress."""

    def __init__(self, network: LinfDistNet, inputs: Tensor, labels: Tensor, config: LinfDistSettings) -> None:
        super().__init__(network, inputs, labels, config)
        self._config = config
        self._epoch = self._step = 0

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self._epoch, self._step = epoch, 0

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        config = self._config
        steps = -(-self.num_rows // config.batch_size)
        progress = (self._epoch - 1 + self._step / steps) / config.epochs
        self._step += 1
        self.network.p = schedule_p(progress)
        inputs, labels = self.take(batch.share)
        logits = forward(inputs)
        weight = _FIRST_WEIGHT * (_LAST_WEIGHT / _FIRST_WEIGHT) ** progress
        entropy = functional.cross_entropy(config.temperature * logits, labels, reduction="sum")
        loss = weight * entropy + (1 - _margins(logits, labels) / config.hinge).clamp_min(0).sum()
        return Step(loss, {"loss": loss, "accuracy": CLASSIFICATION.score(logits, labels)})


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far (n,) the logit of each row's class is above the largest other one."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return own - others.amax(1)
