"""Robust accuracy of any module in one call: attacks, certificates and the bracket, from a notebook."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.attacks import Attack, Budget, Norm, check_logits, find_attack
from otad_ray.certification import certified_radius
from otad_ray.data import Batch
from otad_ray.defenses import MemoryDefense
from otad_ray.errors import InputError
from otad_ray.evaluation.records.attack import AttackRun, record_attack
from otad_ray.evaluation.records.clean import clean_records
from otad_ray.evaluation.robustness_report import RobustnessReport, build_report

# Attacks that any module can be given, cheap ones first.
DEFAULT_ATTACKS = ("noise", "fgsm", "pgd", "square_500")
_REGRESSION_ATTACKS = ("noise", "fgsm", "pgd")
# Samples that are attacked together, as in the sweep.
_COHORT = 100


def evaluate_robustness(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    eps: float | Sequence[float],
    norm: Norm = "l2",
    attacks: Sequence[str | Attack] | None = None,
    bounds: tuple[float, float] | None,
    seed: int = 0,
    certify: bool = True,
    surrogate: MemoryDefense | None = None,
) -> RobustnessReport:
    """Attack a model on given samples, and return its robust accuracy as a bracket.

    Nothing is written, and neither Ray nor MLflow is needed. The same samples, attacks and seed give the same records.

    Example:
        >>> import torch, otad_ray
        >>> model = torch.nn.Linear(2, 2)
        >>> x = torch.rand(8, 2)
        >>> report = otad_ray.evaluate_robustness(
        ...     model, x, model(x).argmax(1), eps=0.1, attacks=("noise", "pgd"), bounds=(0, 1)
        ... )
        >>> len(report.records)
        16

    Args:
        model: inputs (N, *shape) within the bounds to logits (N, C), or to values (N, 1) for a regression.
        x: samples (N, *shape).
        y: classes (N,), or float targets of a regression.
        eps: radius or radii of the perturbations, in the unit of the inputs.
        norm: "l2" or "linf".
        attacks: names of `otad_ray.attacks.ATTACKS`, `file.py:MyAttack`, or attacks themselves; None for cheap ones
            that fit any model.
        bounds: least and largest value of an input; None for inputs without bounds.
        seed: of the attacks' randomness.
        certify: compute certified radii, if the model has a certificate.
        surrogate: a defense whose net and training points the attacker knows; None for the model itself, if it is one.

    Returns:
        The report: one record per sample, attack and eps, the bracket and the flags.

    Raises:
        InputError: for samples, budgets or attacks that do not fit the model, before any attack is run.
    """
    batch = _make_batch(x, y)
    budgets = _make_budgets(eps, norm, bounds, batch)
    named = _name_attacks(
        attacks, batch, budgets, has_surrogate=surrogate is not None or isinstance(model, MemoryDefense)
    )
    with _evaluation_mode(model) as device:
        cohorts = [
            Batch(*(tensor[start : start + _COHORT].to(device) for tensor in batch))
            for start in range(0, len(batch.ids), _COHORT)
        ]
        _probe(model, cohorts[0], batch.y)
        not_certified = _find_refusal(model, cohorts[0].x, certify=certify)
        net = surrogate.backbone if surrogate is not None else getattr(model, "backbone", None)
        clean = pa.concat_tables(
            clean_records(
                model,
                cohort,
                net=net,
                certificate=certified_radius(model, cohort.x) if not_certified is None else None,
            )
            for cohort in cohorts
        )
        records = pa.concat_tables(
            record_attack(
                model,
                cohort,
                attack,
                AttackRun(name=name, budget=budget, seed=seed),
                cohort=number,
                surrogate=surrogate,
            )
            for name, attack in named.items()
            for budget in _budgets_of(attack, budgets)
            for number, cohort in enumerate(cohorts)
        )
    return build_report(
        type(model).__name__,
        records,
        clean,
        kinds={name: attack.kind for name, attack in named.items()},
        norm=norm,
        eps_unit="norm in the unit of the inputs",
        dimension=batch.x[0].numel(),
        not_certified=not_certified,
    )


def _make_batch(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Batch:
    """Return samples with ids 0 to N - 1; InputError for what are no samples with labels."""
    inputs, labels = torch.as_tensor(x).detach(), torch.as_tensor(y).detach()
    if inputs.dim() < 2 or not len(inputs):
        raise InputError(f"x must hold at least one sample, (N, *shape), got {tuple(inputs.shape)}")
    if not inputs.is_floating_point():
        raise InputError(f"x must be floating point, within the bounds, got {inputs.dtype}; divide pixels by 255, say")
    if labels.shape != (len(inputs),):
        raise InputError(f"y must be (N,) = ({len(inputs)},), one label per sample, got {tuple(labels.shape)}")
    if labels.dtype == torch.bool or labels.is_complex():
        raise InputError(f"y must hold classes (integers) or targets (floats), got {labels.dtype}")
    labels = labels.float() if labels.is_floating_point() else labels.long()
    return Batch(torch.arange(len(inputs)), inputs.float(), labels)


def _make_budgets(
    eps: float | Sequence[float], norm: Norm, bounds: tuple[float, float] | None, batch: Batch
) -> list[Budget]:
    """Return a budget for each eps, ascending; InputError for radii that cannot be, and for samples out of bounds."""
    radii = sorted({float(value) for value in ([eps] if isinstance(eps, int | float) else eps)})
    if not radii:
        raise InputError("eps must hold at least one radius")
    if inf in radii:
        raise InputError("need a finite eps; attacks that choose the norm themselves are run once by themselves")
    budgets = [Budget(eps=value, norm=norm, bounds=bounds) for value in radii]
    budgets[0].check_inputs(batch.x)
    return budgets


def _name_attacks(
    attacks: Sequence[str | Attack] | None, batch: Batch, budgets: Sequence[Budget], *, has_surrogate: bool
) -> dict[str, Attack]:
    """Return the attacks by name; InputError for one that does not fit the samples, or needs what is not there."""
    regression = batch.y.is_floating_point()
    if attacks is None:
        attacks = _REGRESSION_ATTACKS if regression else DEFAULT_ATTACKS
    if isinstance(attacks, str) or not attacks:
        raise InputError(f"attacks must be a sequence of names or attacks, got {attacks!r}")
    named: dict[str, Attack] = {}
    for item in attacks:
        name, attack = (item, find_attack(item)) if isinstance(item, str) else (type(item).__name__, item)
        if name in named:
            raise InputError(f"attack {name!r} is given twice")
        try:
            attack.check(_budgets_of(attack, budgets)[0], regression=regression)
        except InputError as error:
            raise InputError(f"attack {name!r}: {error}") from error
        if attack.needs_surrogate and not has_surrogate:
            raise InputError(
                f"attack {name!r} needs an undefended net and training points, which this model does not have; give "
                "surrogate=, a defense with a memory, or leave out the attack"
            )
        named[name] = attack
    return named


def _budgets_of(attack: Attack, budgets: Sequence[Budget]) -> Sequence[Budget]:
    """Return the budgets that an attack is run with: one without a radius if it chooses the norm itself."""
    first = budgets[0]
    return [Budget(eps=inf, norm=first.norm, bounds=first.bounds)] if attack.chooses_norm else budgets


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[torch.device]:
    """Put a model and all its modules into evaluation mode within the block; yield the device that it is on."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    try:
        yield torch.device("cpu") if tensor is None else tensor.device
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def _probe(model: nn.Module, cohort: Batch, y: Tensor) -> None:
    """Ask the model once: InputError for outputs that are no logits of the samples' classes."""
    logits = model(cohort.x)
    if not isinstance(logits, Tensor):
        raise InputError(f"the model must return a tensor of logits (N, C), got {type(logits).__name__}")
    check_logits(logits, cohort.x, cohort.y)
    if not y.is_floating_point() and int(y.max()) >= logits.shape[1]:
        raise InputError(f"labels go up to {int(y.max())}, but the model returns {logits.shape[1]} classes")


def _find_refusal(model: nn.Module, x: Tensor, *, certify: bool) -> str | None:
    """Return why the model gets no certificate; None if it gets one."""
    if not certify:
        return "certificates were not asked for"
    try:
        certified_radius(model, x[:1])
    except InputError as error:
        return str(error)
    return None
