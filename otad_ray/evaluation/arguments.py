"""The arguments of `evaluate_robustness`, checked before any work: samples, budgets, attacks and networks."""

import itertools
from collections.abc import Container, Sequence
from math import inf

import numpy as np
import torch
from torch import Tensor, nn

from otad_ray.attacks import Attack, Budget, MetricPGD, Norm, find_attack
from otad_ray.data import Batch
from otad_ray.defenses import MemoryDefense
from otad_ray.errors import InputError

# Attacks that any module can be given, cheap ones first.
DEFAULT_ATTACKS = ("noise", "fgsm", "pgd", "square_500")
_REGRESSION_ATTACKS = ("noise", "fgsm", "pgd")


def check_networks(model: nn.Module, surrogate: MemoryDefense | None) -> None:
    """Raise an InputError unless the model is a module, and the surrogate a defense with a memory."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model must be a torch.nn.Module, got {type(model).__name__}; wrap a function in a module's forward"
        )
    if surrogate is not None and not isinstance(surrogate, MemoryDefense):
        raise InputError(
            f"surrogate must be a defense with a memory, such as KNN or OTAD, got {type(surrogate).__name__}"
        )


def make_batch(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Batch:
    """Return samples with ids 0 to N - 1; InputError for what are no samples with labels."""
    inputs, labels = _copy_to_tensor("x", x), _copy_to_tensor("y", y)
    if inputs.dim() < 2 or not inputs.numel():
        raise InputError(f"x must hold at least one sample, (N, *shape), got {tuple(inputs.shape)}")
    if not inputs.is_floating_point():
        raise InputError(f"x must be floating point, within the bounds, got {inputs.dtype}; divide pixels by 255, say")
    if labels.shape != (len(inputs),):
        raise InputError(f"y must be (N,) = ({len(inputs)},), one label per sample, got {tuple(labels.shape)}")
    if labels.dtype == torch.bool or labels.is_complex():
        raise InputError(f"y must hold classes (integers) or targets (floats), got {labels.dtype}")
    if not bool(labels.isfinite().all()):
        raise InputError("y holds NaN or infinite targets; remove or repair those samples")
    labels = labels.float() if labels.is_floating_point() else labels.long()
    return Batch(torch.arange(len(inputs)), inputs.float(), labels)


def _copy_to_tensor(name: str, values: Tensor | np.ndarray) -> Tensor:
    """Return values as a tensor of its own: one made in inference mode has no gradient, an array may be read-only."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a tensor or an array of numbers, got {type(values).__name__}") from error


def make_budgets(
    eps: float | Sequence[float], norm: Norm, bounds: tuple[float, float] | None, batch: Batch
) -> list[Budget]:
    """Return a budget for each eps, ascending; InputError for radii that cannot be, and for samples out of bounds."""
    try:
        radii = np.unique(np.asarray(eps, dtype=np.float64)).tolist()
    except (TypeError, ValueError) as error:
        raise InputError(f"eps must be a radius or a sequence of radii, got {eps!r}") from error
    if not radii:
        raise InputError("eps must hold at least one radius")
    if inf in radii:
        raise InputError("need a finite eps; attacks that choose the norm themselves are run once by themselves")
    limits = None if bounds is None else _check_bounds(bounds)
    budgets = [Budget(eps=value, norm=norm, bounds=limits) for value in radii]
    budgets[0].check_inputs(batch.x)
    return budgets


def _check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return bounds as floats; InputError unless they are two finite numbers, the lesser first."""
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError) as error:
        raise InputError(f"bounds must be (least, largest) value of an input or None, got {bounds!r}") from error
    if not -inf < low < high < inf:
        raise InputError(f"need finite bounds, the lesser first, got {bounds!r}; None for inputs without bounds")
    return low, high


def name_attacks(
    attacks: Sequence[str | Attack] | None, batch: Batch, budgets: Sequence[Budget], known: MemoryDefense | None
) -> dict[str, Attack]:
    """Return the attacks by name; InputError for one that does not fit the samples, or needs what is not there.

    Args:
        attacks: names and attacks; None for the default ones.
        batch: the samples.
        budgets: the budgets, of which an attack is checked with the first.
        known: the defense whose net and training points the attacker knows; None for none.
    """
    regression = batch.y.is_floating_point()
    if attacks is None:
        attacks = _REGRESSION_ATTACKS if regression else DEFAULT_ATTACKS
    if not isinstance(attacks, list | tuple) or not attacks:
        raise InputError(f"attacks must be a sequence of names or attacks, got {attacks!r}")
    named: dict[str, Attack] = {}
    for item in attacks:
        name, attack = _find_attack(item, named)
        try:
            attack.check(select_budgets(attack, budgets)[0], regression=regression)
        except InputError as error:
            raise InputError(f"attack {name!r}: {error}") from error
        _check_surrogate(name, attack, known)
        named[name] = attack
    return named


def _find_attack(item: str | Attack, taken: Container[str]) -> tuple[str, Attack]:
    """Return an attack with the name that it is recorded under; InputError for what is none, or has a name taken."""
    if isinstance(item, Attack):
        name = type(item).__name__
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        return next(found for found in itertools.chain([name], numbered) if found not in taken), item
    if not isinstance(item, str):
        raise InputError(f"attacks must be names or attacks such as PGD(steps=20), got {item!r}")
    if item in taken:
        raise InputError(f"attack {item!r} is given twice")
    return item, find_attack(item)


def _check_surrogate(name: str, attack: Attack, known: MemoryDefense | None) -> None:
    """Raise an InputError if an attack needs to know more than there is."""
    if attack.needs_surrogate and known is None:
        raise InputError(
            f"attack {name!r} needs an undefended net and training points, which this model does not have; give "
            "surrogate=, a defense with a memory, or leave out the attack"
        )
    if isinstance(attack, MetricPGD) and known is not None and known.metric is None:
        raise InputError(
            f"attack {name!r} attacks a metric net, and {type(known).__name__} searches its memory by points; give "
            "surrogate=, a defense that searches by a metric net, or leave out the attack"
        )


def select_budgets(attack: Attack, budgets: Sequence[Budget]) -> Sequence[Budget]:
    """Return the budgets that an attack is run with: one without a radius if it chooses the norm itself."""
    first = budgets[0]
    return [Budget(eps=inf, norm=first.norm, bounds=first.bounds)] if attack.chooses_norm else budgets
