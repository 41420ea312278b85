"""A defense asked for a few samples before the work: whether it can be attacked and certified, and what that costs."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from otad_ray.certification import certificate_revision, certified_radius
from otad_ray.cip import refuse_interruptions
from otad_ray.data import Batch
from otad_ray.defenses.randomness import count_draws
from otad_ray.errors import InputError
from otad_ray.evaluation.foreign_module import ask_for_logits
from otad_ray.recipes.defense_source import DefenseSource
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.plan import SweepPlan
from otad_ray.sweep.samples import COHORT_SIZE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """What a defense did with a few samples.

    Attributes:
        not_certified: why it has no certificate; None if it has one.
        forward_seconds: seconds a sample of a forward pass, on one thread.
        gradient_seconds: seconds a sample of a forward pass with a gradient, on one thread.
        draws: forward passes that an attack averages for each gradient.
        certificate_revision: which version of its certificate it has.
    """

    not_certified: str | None
    forward_seconds: float
    gradient_seconds: float
    draws: int = 1
    certificate_revision: int = 1


def probe_defense(workspace: Workspace, plan: SweepPlan, source: DefenseSource) -> Probe:
    """Ask a defense for a few samples; InputError for one that cannot be attacked."""
    defense = source.open()
    batch = plan.samples.take(np.arange(min(COHORT_SIZE, plan.samples.count)))
    try:
        with refuse_interruptions():
            forward, gradient = _time_passes(defense, batch, workspace.definition.num_outputs)
            reason = _find_refusal(defense, batch)
    except InputError as error:
        raise InputError(f"defense {source.name!r}: {error}") from error
    except Exception as error:
        raise InputError(
            f"defense {source.name!r} raised {type(error).__name__}: {error}, on a batch of {len(batch.x)} samples"
        ) from error
    if reason:
        logger.info("%s: not certified: %s", source.name, reason)
    return Probe(reason, forward, gradient, count_draws(defense), certificate_revision(defense))


def _time_passes(defense: nn.Module, batch: Batch, num_outputs: int) -> tuple[float, float]:
    """Check the outputs, and time a pass without and one with a gradient, on one thread as in actors.

    Returns:
        Seconds a sample of each.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            logits = ask_for_logits(defense, batch.x, batch.y, who="the defense")
            if logits.shape[1] != num_outputs:
                raise InputError(
                    f"the data set has {num_outputs} classes, the defense returns {logits.shape[1]} logits"
                )
            started = time.perf_counter()
            defense(batch.x)
        middle = time.perf_counter()
        _differentiate(defense, batch.x)
        ended = time.perf_counter()
    finally:
        torch.set_num_threads(before)
    return (middle - started) / len(batch.x), (ended - middle) / len(batch.x)


def _differentiate(defense: nn.Module, x: Tensor) -> None:
    """Ask for a gradient; a defense without one is attacked all the same, by what only asks for outputs."""
    inputs = x.clone().requires_grad_()
    try:
        outputs = defense(inputs)
        if outputs.requires_grad:
            torch.autograd.grad(outputs.sum(), inputs, allow_unused=True)
    except RuntimeError as error:
        logger.warning("%s has no gradient (%s): attacks with one will fail on it", type(defense).__name__, error)


def _find_refusal(defense: nn.Module, batch: Batch) -> str | None:
    """Return why a defense has no certificate; None if it has one."""
    try:
        certified_radius(defense, batch.x[:1].clone())
    except InputError as error:
        return str(error)
    return None
