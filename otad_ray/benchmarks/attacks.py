"""Attacks: Square against pyautoattack's, PGD against foolbox's, on the same samples of the same net."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from otad_ray.attacks import PGD, Attack, Budget, Square, Streams
from otad_ray.benchmarks.measurement import Measurement, best_of
from otad_ray.errors import InputError


def measure_square(
    net: nn.Module, x: Tensor, y: Tensor, budget: Budget, *, queries: int = 500, goal: float = 1.0
) -> Measurement:
    """Seconds of both with as many queries; both leave a sample alone once it is misclassified."""
    _bounds(budget)
    from pyautoattack.square import SquareAttack

    norm = {"l2": "L2", "linf": "Linf"}[budget.norm]
    library = SquareAttack(net, norm=norm, n_queries=queries, eps=budget.eps, seed=0, device=x.device)

    @torch.no_grad()
    def reference() -> Tensor:
        return library.perturb(x, y)

    what = f"{queries} queries, pyautoattack"
    return _measured("square", what, Square(queries=queries), reference, net, x, y, budget, goal)


def measure_pgd(
    net: nn.Module, x: Tensor, y: Tensor, budget: Budget, *, steps: int = 100, goal: float = 1.0
) -> Measurement:
    """Seconds of both with as many steps of the same length, from a random start.

    foolbox takes every step of every sample, ours leaves a sample alone once it is misclassified.
    """
    bounds = _bounds(budget)
    try:
        import foolbox
    except ImportError as error:
        raise InputError("the benchmark compares with foolbox: pip install foolbox") from error
    attack = PGD(steps=steps)
    kind = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}[budget.norm]
    library = kind(rel_stepsize=attack.relative_step / steps, steps=steps, random_start=True)
    model = foolbox.PyTorchModel(net.eval(), bounds=bounds, device=x.device)

    def reference() -> Tensor:
        torch.manual_seed(0)
        return library(model, x, y, epsilons=budget.eps)[1]

    return _measured("pgd", f"{steps} steps, foolbox", attack, reference, net, x, y, budget, goal)


def _measured(
    name: str,
    what: str,
    attack: Attack,
    reference: Callable[[], Tensor],
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: Budget,
    goal: float,
) -> Measurement:
    ours, result = best_of(2, lambda: attack(net, x, y, budget, Streams.of(0, range(len(x)))))
    # The libraries seed the generators of the whole process.
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        theirs, found = best_of(2, reference)
    with torch.no_grad():
        robust, same = (float((net(moved).argmax(1) == y).double().mean()) for moved in (result.x_adv, found))
    return Measurement(
        name=f"{name}_{budget.norm}",
        unit="s",
        ours=ours,
        reference=theirs,
        ratio=theirs / ours,
        goal=goal,
        note=f"{len(x)} samples, {budget.norm} eps {budget.eps:g}, {what}; "
        f"robust accuracy {100 * robust:.1f} % by ours, {100 * same:.1f} % by the reference",
    )


def _bounds(budget: Budget) -> tuple[float, float]:
    """Those of the budget; InputError unless the libraries know them."""
    if budget.bounds != (0.0, 1.0):
        raise InputError(f"the libraries compared with need bounds [0, 1], got {budget.bounds}")
    return budget.bounds
