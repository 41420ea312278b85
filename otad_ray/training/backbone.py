"""Training of a backbone, equation (14): the task's loss plus the transport energy, in one process or several."""

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from otad_ray.artifacts import content_hash
from otad_ray.errors import InputError
from otad_ray.models import Backbone
from otad_ray.training.objectives import Objective, objective_of
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.state import EpochMetrics, TrainingState, TrainingStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """SGD with momentum and a cosine schedule, after the paper's Section V.A.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows a step, over all processes.
        learning_rate: at the start of the cosine schedule.
        momentum: of SGD.
        weight_decay: of SGD.
        energy_weight: alpha of (14), on the mean over samples of the path energy (13).
        precision: of the forward pass, by autocast; parameters, loss and energy stay in float32.
        seed: of initialization and order.
        rows: train, the whole training part, or fit, less the validation tenth, to choose hyperparameters.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    energy_weight: float = 0.01
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    rows: Literal["train", "fit"] = "train"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"need seed >= 0, got {self.seed}")
        for name in ("learning_rate", "momentum", "weight_decay", "energy_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"need a finite {name} >= 0, got {getattr(self, name)}")


def train_backbone(
    backbone: Backbone,
    inputs: Tensor,
    targets: Tensor,
    config: TrainingConfig,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> Backbone:
    """Minimize (14) over the backbone's parameters, in place, on the device they are on.

    inputs (N, *shape); targets (N,) int64 for the cross entropy, or floats for the mean squared error. Where a process
    group of torch.distributed is open, all its processes call this with the same arguments: each takes its share of
    every batch, and the parameters come out as from one process, up to rounding.

    store: where states are kept and an interrupted training goes on. on_epoch: called in the process of rank 0, for
    epochs trained by this call.

    Deterministic for a seed on one machine. Raises FloatingPointError, in every process, when the loss is no longer
    finite, and InputError for rows that do not fit the backbone and a store that holds another training.
    """
    group = ProcessGroup()
    objective = objective_of(backbone, inputs, targets)
    identity = "" if store is None else _identity(backbone, inputs, targets, config)
    optimizer = torch.optim.SGD(
        backbone.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    history = list(_resume(group, store, identity, backbone, optimizer))
    network = group.parallel(_Network(backbone)).train()
    for epoch in range(len(history) + 1, config.epochs + 1):
        history.append(_train_epoch(epoch, network, inputs, targets, config, objective, optimizer, group))
        if group.rank == 0:
            if store is not None and (epoch % store.every == 0 or epoch == config.epochs):
                store.save(_state(identity, backbone, optimizer, history))
            on_epoch(history[-1])
    return backbone.eval()


def _identity(backbone: Backbone, inputs: Tensor, targets: Tensor, config: TrainingConfig) -> str:
    """Changes when the architecture, the configuration or any row does."""
    digests = [hashlib.sha256(rows.cpu().contiguous().numpy().data).hexdigest() for rows in (inputs, targets)]
    return content_hash([type(backbone).__name__, backbone.config, config, list(inputs.shape), digests])


class _Network(nn.Module):
    """Outputs and energies in one forward pass, as DistributedDataParallel needs them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features, energy = self.backbone.transport(_full_precision(self.backbone.embed(inputs)))
        return _full_precision(self.backbone.head(features)), _full_precision(energy)


def _full_precision(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _train_epoch(
    epoch: int,
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    config: TrainingConfig,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    group: ProcessGroup,
) -> EpochMetrics:
    device = next(network.parameters()).device
    batches = _order(len(inputs), config.seed, epoch).split(config.batch_size)
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    for step, batch in enumerate(batches, start=(epoch - 1) * len(batches)):
        index = group.share(batch)
        labels = targets[index].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            outputs, energy = network(inputs[index].to(device))
        loss = objective.loss(outputs, labels) + config.energy_weight * energy.sum()
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes; the mean wanted is over the rows of the whole batch.
        (loss * (group.size / len(batch))).backward()
        _set_learning_rate(optimizer, config.learning_rate, step / (config.epochs * len(batches)))
        optimizer.step()
        totals += torch.stack([loss, energy.sum(), objective.score(outputs, labels)]).detach()
    loss_mean, energy_mean, score = (group.sum(totals) / len(inputs)).tolist()
    if not math.isfinite(loss_mean):
        raise FloatingPointError(
            f"the training loss is {loss_mean} in epoch {epoch}; lower learning_rate ({config.learning_rate})"
        )
    return EpochMetrics(epoch=epoch, loss=loss_mean, energy=energy_mean, **{objective.metric: score})


def _order(num_rows: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch's rows, from seed and epoch alone, so that every process and every rerun has the same."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num_rows))


def _set_learning_rate(optimizer: torch.optim.Optimizer, initial: float, progress: float) -> None:
    """The cosine schedule; progress: share of the steps that are done."""
    for group in optimizer.param_groups:
        group["lr"] = initial * (1 + math.cos(math.pi * progress)) / 2


def _state(
    identity: str, backbone: Backbone, optimizer: torch.optim.Optimizer, history: list[EpochMetrics]
) -> TrainingState:
    slots = optimizer.state_dict()["state"]
    tensors = {f"{number}.{name}": value for number, slot in slots.items() for name, value in slot.items()}
    return TrainingState(
        training=identity,
        backbone=backbone.state_dict(),
        optimizer={name: value for name, value in tensors.items() if value is not None},
        history=tuple(history),
    )


def _resume(
    group: ProcessGroup,
    store: TrainingStore | None,
    identity: str,
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
) -> tuple[EpochMetrics, ...]:
    """Put backbone and optimizer where the store left them; the epochs done so far."""
    if store is None:
        return ()
    # One process reads: while a killed run still writes, several could find different epochs.
    state = group.from_first(store.latest() if group.rank == 0 else None)
    if state is None:
        return ()
    if state.training != identity:
        raise InputError(
            f"{store.directory} holds the state of another training (architecture, configuration or rows); "
            "give another directory or delete this one"
        )
    backbone.load_state_dict(state.backbone)
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.optimizer.items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if group.rank == 0:
        logger.info("going on after epoch %d of %s", state.epoch, store.directory)
    return state.history
