"""Robust accuracy of any module in one call: attacks, certificates and the bracket, from a notebook."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.attacks import Attack, Norm
from otad_ray.certification import certified_linf_radius, certified_radius
from otad_ray.cip import refuse_interruptions
from otad_ray.data import Batch
from otad_ray.defenses import MemoryDefense
from otad_ray.errors import InputError
from otad_ray.evaluation.arguments import check_networks, make_batch, make_budgets, name_attacks, select_budgets
from otad_ray.evaluation.foreign_module import ask_for_logits, shield
from otad_ray.evaluation.records.attack import AttackRun, record_attack
from otad_ray.evaluation.records.clean import clean_records
from otad_ray.evaluation.robustness_report import RobustnessReport, build_report
from otad_ray.models import Backbone

# Samples that are attacked together, as in the sweep.
_COHORT = 100


@torch.inference_mode(False)
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
    The model is attacked in evaluation mode, and left as it was.

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
        attacks: names of `otad_ray.attacks.ATTACKS`, `file.py:MyAttack`, or attacks themselves, which are recorded
            under the name of their class (`PGD`, the next of its kind `PGD_2`); None for cheap ones that fit any model.
        bounds: least and largest value of an input; None for inputs without bounds.
        seed: of the attacks' randomness.
        certify: compute certified radii, if the model has a certificate.
        surrogate: a defense whose net and training points the attacker knows; None for the model itself, if it is one.

    Returns:
        The report: one record per sample, attack and eps, the bracket and the flags.

    Raises:
        InputError: for samples, budgets or attacks that do not fit the model, before any attack is run.
        SolverInterruptedError: if the model solves programs, and its solver stops answering.
    """
    check_networks(model, surrogate)
    batch = make_batch(x, y)
    budgets = make_budgets(eps, norm, bounds, batch)
    known = model if surrogate is None and isinstance(model, MemoryDefense) else surrogate
    named = name_attacks(attacks, batch, budgets, known)
    name = type(model).__name__
    with _freeze(model), _freeze(surrogate), shield(model) as model, refuse_interruptions():
        device = _find_device(model)
        cohorts = [
            Batch(*(tensor[start : start + _COHORT].to(device) for tensor in batch))
            for start in range(0, len(batch.ids), _COHORT)
        ]
        ask_for_logits(model, cohorts[0].x, batch.y, who="the model")
        not_certified = _find_refusal(model, cohorts[0].x, certify=certify)
        net = _find_net(model if known is None else known)
        clean = pa.concat_tables(
            clean_records(
                model,
                cohort,
                net=net,
                certificate=certified_radius(model, cohort.x.clone()) if not_certified is None else None,
                linf_certificate=certified_linf_radius(model, cohort.x.clone()) if not_certified is None else None,
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
            for budget in select_budgets(attack, budgets)
            for number, cohort in enumerate(cohorts)
        )
    return build_report(
        name,
        records,
        clean,
        kinds={name: attack.kind for name, attack in named.items()},
        norm=norm,
        eps_unit="norm in the unit of the inputs",
        dimension=batch.x[0].numel(),
        not_certified=not_certified,
    )


@contextmanager
def _freeze(model: nn.Module | None) -> Iterator[None]:
    """Keep a model in evaluation mode within the block, and its parameters free of gradients."""
    if model is None:
        yield
        return
    modes = {module: module.training for module in model.modules()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(modes[model])
        # Parts of a model may have a mode of their own.
        for module, mode in modes.items():
            module.training = mode
        for parameter in parameters:
            parameter.requires_grad_()


def _find_net(model: nn.Module) -> Backbone | None:
    """Return the undefended net that a defense is built on; None for another module."""
    net = getattr(model, "backbone", None)
    return net if isinstance(net, Backbone) else None


def _find_device(model: nn.Module) -> torch.device:
    """Return the device that a model is on; that of its first parameter or buffer."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _find_refusal(model: nn.Module, x: Tensor, *, certify: bool) -> str | None:
    """Return why the model gets no certificate; None if it gets one."""
    if not certify:
        return "certificates were not asked for"
    try:
        certified_radius(model, x[:1].clone())
    except InputError as error:
        return str(error)
    return None
