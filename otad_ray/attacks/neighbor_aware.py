"""Attack on what a nearest-neighbor defense stands on: the distances to training points of the right and other classes.

The loss is a soft nearest-neighbor one, after Sitawarin and Wagner's attack on deep nearest neighbors (2019); it has a
gradient wherever the defense's own vanishes or points nowhere.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.progress import Active, Progress
from otad_ray.defenses import MemoryDefense
from otad_ray.errors import InputError

_BLOCK_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class NeighborAware(Attack):
    """PGD on `logsumexp_j(-|x - b_j|^2 / T) - logsumexp_i(-|x - a_i|^2 / T)` over keys of training points, x a key.

    Keys are what the memory is searched by: outputs of the metric net, without one the points.
    a_i: the nearest ones that the net gives to the label's class; b_j: the nearest ones of another class, one class
    after the other from the nearest on. The defense is asked every few steps whether it is fooled.

    candidates: points of each side. targets: other classes tried. temperature: T as a part of the mean squared
    distance to the b_j.
    """

    kind: ClassVar[AttackKind] = "surrogate"
    candidates: int = 50
    targets: int = 3
    temperature: float = 0.15
    steps: int = 40
    relative_step: float = 2.5
    steps_per_query: int = 5

    @property
    def needs_surrogate(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.targets * (self.steps // self.steps_per_query))

    def _run(self, target: Target) -> AttackResult:
        x, y, surrogate = target.x, target.y, target.surrogate
        if surrogate is None:
            raise InputError("NeighborAware needs training points: give it a surrogate, a defense with a memory")
        progress = Progress(x, y, Goal())
        progress.evaluate(target.defense, progress.open, x)
        near = _nearest_by_class(surrogate, x, self.candidates)
        order = _mean_distance(near.distances).scatter(1, y.unsqueeze(1), torch.inf).argsort(1)
        for other in order.T[: min(self.targets, order.shape[1] - 1)]:
            rows = progress.open
            rows = rows[torch.isfinite(near.distances[rows, other[rows], 0])]
            if len(rows):
                self._approach(Active(target, progress, rows), surrogate, near.of(rows, y), near.of(rows, other))
        return progress.result()

    def _approach(self, active: Active, surrogate: MemoryDefense, right: "_Candidates", wrong: "_Candidates") -> None:
        """Move the active samples towards the points of one other class."""
        budget = active.target.budget
        temperature = self.temperature * _mean_distance(wrong.distances)
        size = self.relative_step * budget.eps / self.steps
        for step in active.steps(self.steps):
            gradient = _gradient(surrogate, active.moved, right, wrong, temperature)
            active.move(budget.step(gradient, size))
            if step % self.steps_per_query == 0:
                going = active.evaluate()
                right, wrong, temperature = right.take(going), wrong.take(going), temperature[going]


class _Candidates(NamedTuple):
    """keys (n, M, E), and squared distances (n, M), infinite where there is no point."""

    keys: Tensor
    distances: Tensor

    def take(self, rows: Tensor) -> "_Candidates":
        return _Candidates(self.keys[rows], self.distances[rows])

    def affinity(self, keys: Tensor, temperature: Tensor) -> Tensor:
        """`logsumexp_j(-|x - p_j|^2 / T)` (n,) less the part that all classes share, for keys x (n, E)."""
        inner = (self.keys @ keys.unsqueeze(2)).squeeze(2)
        squares = self.keys.square().sum(2)
        exponents = (2 * inner - squares) / temperature.unsqueeze(1)
        return exponents.masked_fill(~torch.isfinite(self.distances), -torch.inf).logsumexp(1)


class _NearestByClass(NamedTuple):
    """Positions in the memory (B, C, M) and squared distances (B, C, M), ascending; infinite where a class has less."""

    memory_keys: Tensor
    positions: Tensor
    distances: Tensor

    def of(self, rows: Tensor, classes: Tensor) -> _Candidates:
        """Candidates of the samples at positions rows (n,), of each sample's class in classes (B,)."""
        chosen = classes[rows]
        keys = self.memory_keys[self.positions[rows, chosen]]
        return _Candidates(keys, self.distances[rows, chosen])


def _mean_distance(distances: Tensor) -> Tensor:
    """Means over the last axis of the points that are there; infinite where none is."""
    present = torch.isfinite(distances)
    means = distances.where(present, 0.0).sum(-1) / present.sum(-1)
    return torch.where(present.any(-1), means, torch.inf)


def _gradient(
    surrogate: MemoryDefense, moved: Tensor, right: _Candidates, wrong: _Candidates, temperature: Tensor
) -> Tensor:
    with torch.enable_grad():
        inputs = moved.detach().requires_grad_()
        keys = surrogate.keys(inputs)
        loss = wrong.affinity(keys, temperature)
        # A class that the net gives no training point to attracts nothing.
        own = right.affinity(keys, temperature)
        loss = loss - torch.where(torch.isfinite(own), own, 0.0)
        (gradient,) = torch.autograd.grad(loss.sum(), inputs)
    return gradient.nan_to_num()


@torch.no_grad()
def _nearest_by_class(surrogate: MemoryDefense, x: Tensor, count: int) -> _NearestByClass:
    """The nearest training points of every class, by the class that the net gives their features."""
    memory, classes = surrogate.memory, surrogate.training_classes
    keys = surrogate.keys(x)
    shape = (len(x), surrogate.backbone.num_outputs, count)
    distances = keys.new_full(shape, torch.inf)
    positions = torch.zeros(shape, dtype=torch.int64, device=keys.device)
    for start in range(0, len(memory), _BLOCK_ROWS):
        block = memory.keys[start : start + _BLOCK_ROWS].to(keys)
        squared = torch.addmm(block.square().sum(1), keys, block.T, alpha=-2)
        for label in classes[start : start + _BLOCK_ROWS].unique().tolist():
            members = (classes[start : start + _BLOCK_ROWS] == label).nonzero().squeeze(1)
            both = torch.cat([distances[:, label], squared[:, members]], 1)
            places = torch.cat([positions[:, label], (start + members).expand(len(x), -1)], 1)
            distances[:, label], best = both.topk(count, largest=False)
            positions[:, label] = places.gather(1, best)
    return _NearestByClass(memory.keys, positions, distances + keys.square().sum(1).view(-1, 1, 1))
