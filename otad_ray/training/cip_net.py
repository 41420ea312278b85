"""Training of CIP-net from labels: losses (19) and (24), neighbors gathered from the memory as they are needed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from otad_ray.cip import center_displacement, combine_centers
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, Neighborhood, NeighborMemory, approximate_feature, net_inputs
from otad_ray.models import CipNet
from otad_ray.training.loop import BatchRows, InPrecision, LoopConfig, Step, full_precision, minimize
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.state import EpochMetrics, TrainingStore

# Rows that scales are measured on, and gathered at a time where errors are measured.
_SCALED_ROWS = 1024
_BLOCK_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class CipNetTrainingConfig(LoopConfig):
    """How CIP-net is trained.

    Attributes:
        alpha: of (24): 1 fits the solver's features alone, loss (19), 0 the backbone's own.
        held_out: part of the labels that is not trained on, for the error that is reported.
    """

    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    alpha: float = 1.0
    held_out: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise InputError(f"need alpha in [0, 1], got {self.alpha}")
        if not 0 < self.held_out < 1:
            raise InputError(f"need held_out between 0 and 1, got {self.held_out}")


class SolvedRows(NamedTuple):
    """Labels as positions in their memory: rows (n,), their neighbors (n, K) int64, and exact weights (n, K)."""

    rows: Tensor
    neighbors: Tensor
    weights: Tensor

    def take(self, places: Tensor) -> "SolvedRows":
        return SolvedRows(*(tensor[places] for tensor in self))


def split_solved(solved: SolvedRows, config: CipNetTrainingConfig) -> tuple[SolvedRows, SolvedRows]:
    """What is trained on, and what is held out: a seeded part. InputError where one of them would be empty."""
    order = torch.from_numpy(np.random.default_rng((config.seed, 0)).permutation(len(solved.rows)))
    held_out = round(config.held_out * len(order))
    if not 0 < held_out < len(order):
        raise InputError(
            f"{len(order)} solved labels are too few to hold out a part of {config.held_out} and train on the rest"
        )
    return solved.take(order[held_out:].sort().values), solved.take(order[:held_out].sort().values)


def train_cip_net(
    net: CipNet,
    memory: NeighborMemory,
    solved: SolvedRows,
    integration: IntegrationConfig,
    config: CipNetTrainingConfig,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> CipNet:
    """Minimize (24) over the net's parameters, in place, as `minimize` does: on the part that is not held out.

    solved: labels made with this memory and this integration. Features are gathered from the memory a batch at a time.
    Raises InputError for a net of another number of neighbors or other dimensions, and what `minimize` raises.
    """
    net.check(
        num_neighbors=integration.num_neighbors, coordinates=memory.points.shape[1], dimension=memory.features.shape[1]
    )
    trained, _ = split_solved(solved, config)
    _set_scales(net, memory, trained)
    minimize(_CipProblem(net, memory, trained, integration, config), config, on_epoch=on_epoch, store=store)
    return net


class _CipProblem:
    """Loss (24)."""

    def __init__(
        self,
        net: CipNet,
        memory: NeighborMemory,
        solved: SolvedRows,
        integration: IntegrationConfig,
        config: CipNetTrainingConfig,
    ) -> None:
        self._memory, self._solved, self._alpha = memory, solved, config.alpha
        self._displacement = center_displacement(integration.regularity, integration.cross_term)
        self.network = net
        self.forward = InPrecision(net, config.precision)
        self.num_rows = len(solved.rows)

    @property
    def identity(self) -> Any:
        digests = [hashlib.sha256(part.contiguous().numpy().data).hexdigest() for part in self._solved]
        return [self._memory.fingerprint, self._displacement, digests]

    def start_epoch(self, epoch: int) -> None:
        pass

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        device = next(self.network.parameters()).device
        solved = self._solved.take(batch.share)
        neighborhood = gather(self._memory, solved, device)
        output = forward(*net_inputs(neighborhood, self._memory.point_space))
        exact = self._combine(solved.weights.to(device), neighborhood)
        found = output.feature if output.weights is None else self._combine(output.weights, neighborhood)
        squared_error = (full_precision(found) - exact).square().sum()
        loss = self._alpha * squared_error
        if self._alpha < 1:
            own = self._memory.features[solved.rows.to(self._memory.features.device)].to(exact)
            loss = loss + (1 - self._alpha) * (full_precision(found) - own).square().sum()
        return Step(loss, {"loss": loss, "squared_error": squared_error})

    def _combine(self, weights: Tensor, neighborhood: Neighborhood) -> Tensor:
        """`sum_i s_i w_i` in float32: exact enough to learn from, and a product of matrices."""
        query, points, features = neighborhood
        share = weights.to(features).unsqueeze(1)
        combined = (share @ features).squeeze(1)
        if self._displacement == 0:
            return combined
        step = query - (share @ points).squeeze(1)
        space = self._memory.point_space
        return combined + self._displacement * (step if space is None else space.lift(step))


def gather(memory: NeighborMemory, solved: SolvedRows, device: torch.device | str = "cpu") -> Neighborhood:
    """Points and features of the rows and their neighbors, on a device."""
    rows, neighbors = (part.to(memory.points.device) for part in (solved.rows, solved.neighbors))
    return Neighborhood(
        *(part.to(device) for part in (memory.points[rows], memory.points[neighbors], memory.features[neighbors]))
    )


@torch.no_grad()
def approximation_errors(
    net: CipNet, memory: NeighborMemory, solved: SolvedRows, integration: IntegrationConfig
) -> dict[str, float]:
    """How near a net's features are to the exact ones, on labels it was not trained on.

    squared_error: mean `|z_net - z|^2`. relative_error: that over the mean `|z|^2`. error_to_mean: over the mean error
    of the plain mean of the neighbors' features, the answer that needs no net.
    """
    device = next(net.parameters()).device
    displacement = center_displacement(integration.regularity, integration.cross_term)
    sums = torch.zeros(3, dtype=torch.float64)
    for places in torch.arange(len(solved.rows)).split(_BLOCK_ROWS):
        part = solved.take(places)
        neighborhood = gather(memory, part, device)
        exact = combine_centers(part.weights.to(device), *neighborhood, displacement, memory.point_space).double()
        found = approximate_feature(net, neighborhood, integration, memory.point_space).double()
        mean = neighborhood.features.double().mean(1)
        sums += torch.stack([(value - exact).square().sum() for value in (found, torch.zeros_like(exact), mean)]).cpu()
    error, size, of_mean = (sums / len(solved.rows)).tolist()
    return {"squared_error": error, "relative_error": _ratio(error, size), "error_to_mean": _ratio(error, of_mean)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _set_scales(net: CipNet, memory: NeighborMemory, solved: SolvedRows) -> None:
    """Sizes of what the net is given, from the first rows: the same in every process and after a restart."""
    first = torch.arange(min(_SCALED_ROWS, len(solved.rows)))
    squares = torch.zeros(2, dtype=torch.float64)
    for places in first.split(_BLOCK_ROWS):
        neighborhood = gather(memory, solved.take(places))
        squares += torch.stack([_sum_of_squares(part) for part in (neighborhood.points, neighborhood.features)])
    counts = torch.tensor([memory.points.shape[1], memory.features.shape[1]])
    spreads = (squares / (counts * solved.neighbors.shape[1] * len(first))).sqrt()
    # Where all coincide any unit is right.
    net.set_scales(*torch.where(spreads > 0, spreads, 1.0).tolist())


def _sum_of_squares(vectors: Tensor) -> Tensor:
    """Of the entries (n, K, D) about the mean over K."""
    return (vectors - vectors.mean(1, keepdim=True)).double().square().sum()
