"""The training loop of every network: in one process or several, from the start or from where it was interrupted."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from otad_ray.artifacts import content_hash
from otad_ray.errors import InputError
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.state import EpochMetrics, TrainingState, TrainingStore

logger = logging.getLogger(__name__)

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["float32", "bfloat16"]
_OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
_PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """An optimizer with a cosine schedule.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows a step, over all processes.
        optimizer: sgd, with momentum, as the paper trains fully connected nets, or adamw, as it trains transformers.
        learning_rate: at the start of the cosine schedule.
        momentum: of SGD.
        weight_decay: of the optimizer.
        precision: of the forward pass, by autocast; parameters and loss stay in float32.
        seed: of initialization, order and dropout.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        for name, known in (("optimizer", _OPTIMIZERS), ("precision", _PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.seed < 0:
            raise ValueError(f"need seed >= 0, got {self.seed}")
        check_nonnegative(self, "learning_rate", "momentum", "weight_decay")


def check_nonnegative(config: Any, *names: str) -> None:
    """ValueError for a field that is negative or not finite."""
    for name in names:
        if not (math.isfinite(getattr(config, name)) and getattr(config, name) >= 0):
            raise ValueError(f"need a finite {name} >= 0, got {getattr(config, name)}")


def check_float32(config: LoopConfig) -> None:
    """InputError for another precision than float32: for networks whose layers autocast does not reach."""
    if config.precision != "float32":
        raise InputError(
            f"need precision = float32, got {config.precision!r}: this network knows no other in training; "
            "leave precision out"
        )


class Step(NamedTuple):
    """loss: its gradient, added up over the processes, is that of the batch's mean loss times its rows.

    sums: metrics by name, summed over this process's rows, "loss" among them.
    """

    loss: Tensor
    sums: dict[str, Tensor]


class Problem(Protocol):
    """What a loop minimizes: rows by position, and the loss of a batch of them.

    network: what is trained; its state is what is kept. forward: the same as the loss calls it, one forward pass a
    step, which several processes share. identity: changes when the rows or what is asked of them do, of JSON types.
    """

    @property
    def network(self) -> nn.Module: ...

    @property
    def forward(self) -> nn.Module: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def identity(self) -> Any: ...

    def start_epoch(self, epoch: int) -> None:
        """Called before an epoch's first step, also of the first one after a restart."""
        ...

    def step(self, forward: nn.Module, batch: "BatchRows", group: ProcessGroup) -> Step:
        """The loss of a batch."""
        ...


class BatchRows(NamedTuple):
    """Positions of the rows of a batch: whole (n,), over all processes, and this process's share of them."""

    whole: Tensor
    share: Tensor


class InPrecision(nn.Module):
    """A network whose forward pass is in another precision, by autocast."""

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self._precision = precision

    def forward(self, *tensors: Tensor) -> Any:
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            return self.network(*tensors)


def full_precision(values: Tensor) -> Tensor:
    """Values in float32, or what is more exact."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def minimize(
    problem: Problem,
    config: LoopConfig,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> None:
    """Train the problem's network in place, on the device it is on; it is left in evaluation mode.

    Where a process group of torch.distributed is open, all its processes call this with the same arguments: each takes
    its share of every batch, and the parameters come out as from one process, up to rounding; but for dropout, for
    which each process draws by itself.

    store: where states are kept and an interrupted training goes on. on_epoch: called in the process of rank 0, for
    epochs trained by this call.

    Deterministic for a seed on one machine. Raises FloatingPointError, in every process, when the loss is no longer
    finite, and InputError for a store that holds another training.
    """
    group, network = ProcessGroup(), problem.network
    identity = _identity(problem, config)
    optimizer = _optimizer(network, config)
    history = list(_resume(group, store, identity, network, optimizer))
    forward = group.parallel(problem.forward).train()
    for epoch in range(len(history) + 1, config.epochs + 1):
        history.append(_train_epoch(epoch, problem, forward, config, optimizer, group))
        if group.rank == 0:
            if store is not None and (epoch % store.every == 0 or epoch == config.epochs):
                store.save(_state(identity, network, optimizer, history))
            on_epoch(history[-1])
    network.eval()


def _identity(problem: Problem, config: LoopConfig) -> str:
    """Changes when the architecture, the configuration or any row does."""
    return content_hash([type(problem.network).__name__, problem.network.config, config, problem.identity])


def _optimizer(network: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _train_epoch(
    epoch: int,
    problem: Problem,
    forward: nn.Module,
    config: LoopConfig,
    optimizer: torch.optim.Optimizer,
    group: ProcessGroup,
) -> EpochMetrics:
    batches = _order(problem.num_rows, config.seed, epoch).split(config.batch_size)
    totals: dict[str, Tensor] = {}
    problem.start_epoch(epoch)
    with _seeded(config.seed, epoch, group.rank, next(problem.network.parameters()).device):
        for step, whole in enumerate(batches, start=(epoch - 1) * len(batches)):
            found = problem.step(forward, BatchRows(whole, group.share(whole)), group)
            optimizer.zero_grad(set_to_none=True)
            # Gradients are averaged over the processes; the mean wanted is over the rows of the whole batch.
            (found.loss * (group.size / len(whole))).backward()
            _set_learning_rate(optimizer, config.learning_rate, step / (config.epochs * len(batches)))
            optimizer.step()
            for name, value in found.sums.items():
                totals[name] = totals.get(name, 0.0) + value.detach().double()
    sums = group.sum(torch.stack(list(totals.values())))
    means = dict(zip(totals, (sums / problem.num_rows).tolist(), strict=True))
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the training loss is {means['loss']} in epoch {epoch}; lower learning_rate ({config.learning_rate})"
        )
    return EpochMetrics(epoch=epoch, **means)


@contextmanager
def _seeded(seed: int, epoch: int, rank: int, device: torch.device) -> Iterator[None]:
    """The global generators, within the block, as they are at this place of every run: for dropout."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0]))
        yield


def _order(num_rows: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch's rows, from seed and epoch alone, so that every process and every rerun has the same."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num_rows))


def _set_learning_rate(optimizer: torch.optim.Optimizer, initial: float, progress: float) -> None:
    """The cosine schedule; progress: share of the steps that are done."""
    for group in optimizer.param_groups:
        group["lr"] = initial * (1 + math.cos(math.pi * progress)) / 2


def _state(
    identity: str, network: nn.Module, optimizer: torch.optim.Optimizer, history: list[EpochMetrics]
) -> TrainingState:
    slots = optimizer.state_dict()["state"]
    tensors = {f"{number}.{name}": value for number, slot in slots.items() for name, value in slot.items()}
    return TrainingState(
        training=identity,
        network=network.state_dict(),
        optimizer={name: value for name, value in tensors.items() if value is not None},
        history=tuple(history),
    )


def _resume(
    group: ProcessGroup,
    store: TrainingStore | None,
    identity: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> tuple[EpochMetrics, ...]:
    """Put network and optimizer where the store left them; the epochs done so far."""
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
    network.load_state_dict(state.network)
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.optimizer.items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if group.rank == 0:
        logger.info("going on after epoch %d of %s", state.epoch, store.directory)
    return state.history
