"""Training of a backbone, equation (14): the task's loss plus the transport energy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from otad_ray.models import Backbone
from otad_ray.training.augmentation import Augmentation
from otad_ray.training.loop import BatchRows, LoopConfig, Optimizer, Step, check_nonnegative, full_precision, minimize
from otad_ray.training.objectives import objective_of
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import SampleProblem
from otad_ray.training.state import EpochMetrics, TrainingStore


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(LoopConfig):
    """After the paper's Section V.A: SGD with momentum, or AdamW for transformers.

    Attributes:
        energy_weight: alpha of (14), on the mean over samples of the path energy (13).
        augmentation: none, or crop_flip: images shifted by up to an eighth, and mirrored half of the time.
        rows: train, the whole training part, or fit, less the validation tenth, to choose hyperparameters.
    """

    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.05
    energy_weight: float = 0.01
    augmentation: Augmentation = "none"
    rows: Literal["train", "fit"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self, "energy_weight")


def train_backbone(
    backbone: Backbone,
    inputs: Tensor,
    targets: Tensor,
    config: TrainingConfig,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> Backbone:
    """Minimize (14) over the backbone's parameters, in place, as `minimize` does.

    inputs (N, *shape); targets (N,) int64 for the cross entropy, or floats for the mean squared error.
    Raises InputError for rows that do not fit the backbone, and what `minimize` raises.
    """
    problem = _TransportProblem(backbone, inputs, targets, config)
    minimize(problem, config, on_epoch=on_epoch, store=store)
    return backbone


class _TransportProblem(SampleProblem[Backbone]):
    """Loss (14)."""

    def __init__(self, backbone: Backbone, inputs: Tensor, targets: Tensor, config: TrainingConfig) -> None:
        self._objective = objective_of(backbone, inputs, targets)
        self._energy_weight = config.energy_weight
        transport = _Transport(backbone)
        super().__init__(backbone, inputs, targets, config, forward=transport, augmentation=config.augmentation)

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        inputs, targets = self.take(batch.share)
        outputs, energy = forward(inputs)
        loss = self._objective.loss(outputs, targets) + self._energy_weight * energy.sum()
        score = self._objective.score(outputs, targets)
        return Step(loss, {"loss": loss, "energy": energy.sum(), self._objective.metric: score})


class _Transport(nn.Module):
    """Outputs and energies in one forward pass, as DistributedDataParallel needs them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features, energy = self.backbone.transport(full_precision(self.backbone.embed(inputs)))
        return full_precision(self.backbone.head(features)), full_precision(energy)
