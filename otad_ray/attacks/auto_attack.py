"""AutoAttack, standard version (Croce and Hein 2020), by pyautoattack."""

import logging
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.attacks.attack import Attack, AttackKind, AttackResult, Cost, Target
from otad_ray.attacks.budget import Budget
from otad_ray.attacks.goals import Goal, are_finite
from otad_ray.attacks.gradients import is_zero
from otad_ray.attacks.progress import Progress
from otad_ray.errors import InputError

_NORMS = {"l2": "L2", "linf": "Linf"}
_BOUNDS = (0.0, 1.0)
_TARGETS = 9
# The targeted loss compares with the third and fourth largest logits.
_LEAST_CLASSES = 4
# Its Square Attack tiles images by fifths of their height.
_FIFTHS = 5


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """APGD on the cross-entropy, targeted APGD, targeted FAB and Square, each on what the ones before it left.

    Inputs must have bounds [0, 1], to which the library clips, and the defense a gradient. With fewer than ten classes
    all others are targets; with fewer than four there is no targeted APGD. The library draws for the whole batch, so
    the result depends on the samples attacked together and their order; queries and zero gradients are counted over
    the samples of the batch that were attacked, and rounded up. A sample that is not broken stays as it was.
    """

    kind: ClassVar[AttackKind] = "ensemble"

    @property
    def cost(self) -> Cost:
        """With ten classes or more; 8 of the library's questions check the model, 2 and a gradient are ours."""
        forwards = 8 + 2 + (2 + _TARGETS) + (2 + 103 * _TARGETS) + 5004 + 2
        gradients = 1 + 101 + 101 * _TARGETS + 100 * _TARGETS
        return Cost(forwards, gradients)

    def check(self, budget: Budget, *, regression: bool) -> None:
        super().check(budget, regression=regression)
        if budget.bounds != _BOUNDS:
            raise InputError(
                f"AutoAttack clips inputs to [0, 1], the data set's bounds are {budget.bounds}; "
                "use pgd and square_2000 there"
            )

    def _run(self, target: Target) -> AttackResult:
        defense, x, y = target.defense, target.x, target.y
        progress = Progress(x, y, Goal("margin"))
        progress.evaluate(defense, progress.open, x)
        rows = progress.open
        if not len(rows):
            return progress.result()
        watched = _Watched(defense, x[0])
        num_classes = watched.count_classes(x[rows[:1]])
        seed = target.streams.take(rows).shared_seed()
        library = _library(watched, num_classes, target.budget, seed, x.device)
        # It seeds the generators of the whole process.
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            found, _ = library.run_standard_evaluation(watched.images(x[rows]), y[rows], batch_size=len(rows))
        progress.evaluate(defense, rows, watched.samples(found))
        result = progress.result()
        queries, gradients = (
            torch.zeros_like(result.queries).index_fill(0, rows.cpu(), ceil(count / len(rows)))
            for count in (watched.queries, watched.gradients)
        )
        share = result.zero_gradient_share.index_fill(0, rows.cpu(), watched.zero_gradients / watched.gradients)
        return replace(
            result,
            queries=result.queries + queries,
            gradient_queries=gradients,
            zero_gradient_share=share,
        )


def _library(watched: nn.Module, num_classes: int, budget: Budget, seed: int, device: torch.device) -> Any:
    # Imported here: only this attack needs it.
    from pyautoattack import AutoAttack as Library

    library = Library(watched, norm=_NORMS[budget.norm], eps=budget.inner_eps, seed=seed, device=device)
    # Zero gradients, and what Square gains on the others, are in the records, and flagged from them.
    library.logger.setLevel(logging.ERROR)
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = min(_TARGETS, num_classes - 1)
    if num_classes < _LEAST_CLASSES:
        library.attacks_to_run.remove("apgd-t")
    return library


class _Watched(nn.Module):
    """A defense as the library can ask it: images (n, C, H, W) to finite logits, with its questions counted.

    Samples too small or oddly shaped for the library's tiles become part of an image whose other pixels are ignored.
    """

    def __init__(self, defense: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self._defense = defense
        self._sample = sample
        self._inner = _image_shape(sample.shape)
        _, height, width = self._inner
        side = _FIFTHS * ceil(max(height, width) / _FIFTHS)
        self._outer = (height, width) if _can_be_tiled(height, width) else (side, side)
        self.queries = self.gradients = self.zero_gradients = 0

    def images(self, x: Tensor) -> Tensor:
        """Images of samples (n, *shape)."""
        channels, height, width = self._inner
        flat = functional.pad(x.flatten(1), (0, channels * height * width - self._sample.numel()))
        return functional.pad(
            flat.view(-1, channels, height, width), (0, self._outer[1] - width, 0, self._outer[0] - height)
        )

    def samples(self, images: Tensor) -> Tensor:
        """Samples (n, *shape) that images show."""
        flat = images[:, :, : self._inner[1], : self._inner[2]].flatten(1)
        return flat[:, : self._sample.numel()].reshape(-1, *self._sample.shape).to(self._sample)

    def count_classes(self, x: Tensor) -> int:
        """Of the outputs at samples x; InputError unless those are connected with x. A gradient of zero will do."""
        with torch.enable_grad():
            inputs = x.detach().requires_grad_()
            logits = self._defense(inputs)
            found = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)[0] if logits.requires_grad else None
        if found is None:
            raise InputError(
                "AutoAttack follows gradients, and this defense's outputs have none with respect to its inputs; "
                "use square_2000, or let automatic differentiation through"
            )
        self.queries += len(x)
        self._see_gradient(found)
        return logits.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.samples(images)
        if inputs.requires_grad:
            inputs.register_hook(self._see_gradient)
        logits = self._defense(inputs)
        self.queries += len(images)
        # A row that is not a number would spread to all later steps of its sample, so it counts as undecided.
        return torch.where(are_finite(logits).unsqueeze(1), logits, 0.0)

    def _see_gradient(self, gradient: Tensor) -> Tensor:
        gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        self.gradients += len(gradient)
        self.zero_gradients += int(is_zero(gradient).sum())
        return gradient


def _image_shape(shape: torch.Size) -> tuple[int, int, int]:
    """Channels, rows and columns: the sample's own, or of a square that holds all its values."""
    if len(shape) == 3 and min(shape[1:]) >= _FIFTHS:
        return shape[0], shape[1], shape[2]
    side = ceil(sqrt(shape.numel()))
    return 1, side, side


def _can_be_tiled(height: int, width: int) -> bool:
    """Whether the tiles that the library's Square Attack starts from stay within the image."""
    tile = height // _FIFTHS
    margin = (height - tile * _FIFTHS) // 2
    # Tiles of one pixel vanish beyond the edge without harm.
    return tile == 1 or (tile > 1 and all(margin + side // tile * tile <= side for side in (height, width)))
