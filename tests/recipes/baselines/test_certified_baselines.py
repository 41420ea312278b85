"""The baselines with certificates on digits: each learns, survives save and load, and keeps what it certifies."""

import pytest
import torch
from torch import Tensor, nn

from helpers.baselines import CERTIFIED, answer, check_learned_and_loaded, load_held_out
from otad_ray.certification import certified_linf_radius, certified_radius
from otad_ray.defenses.randomness import is_random
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace


@pytest.mark.parametrize("name", CERTIFIED)
def test_baseline_learns_and_is_the_same_when_loaded(name: str, workspace: Workspace) -> None:
    check_learned_and_loaded(name, workspace)


@pytest.mark.parametrize("name", CERTIFIED)
def test_certificates_hold_and_a_planted_factor_is_caught(name: str, workspace: Workspace) -> None:
    defense = find_defenses(workspace, (name,))[name].open()
    count = 25 if is_random(defense) else 100
    x, y = (values[:count] for values in load_held_out(workspace))
    norm = "linf" if name == "linf_dist" else "l2"
    certificate = certified_radius(defense, x) if norm == "l2" else certified_linf_radius(defense, x)
    assert certificate is not None
    radius = certificate.radius
    proven = (answer(defense, x).argmax(1) == y) & (radius > 0)
    assert proven.float().mean() > 0.5
    assert not bool((is_broken(defense, x, y, radius * (1 - 1e-3), norm) & proven).any())
    assert bool((is_broken(defense, x, y, radius * 1.5, norm) & proven).any())


def is_broken(defense: nn.Module, x: Tensor, y: Tensor, radius: Tensor, norm: str, steps: int = 12) -> Tensor:
    """Which samples (B,) gradient steps within a radius (B,) of their own get misclassified."""
    size = radius.float().view(-1, 1, 1, 1)
    moved, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    torch.manual_seed(0)
    for step in range(steps):
        point = moved.requires_grad_()
        logits = defense(point)
        # A random defense is judged once: of many draws some would err.
        broken |= (logits.argmax(1) != y) & (not is_random(defense))
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((others - logits.gather(1, y.unsqueeze(1)).squeeze(1)).sum(), point)
        length = size * (1 - step / steps)
        if norm == "linf":
            moved = x + (moved.detach() + length * gradient.sign() - x).clamp(-size, size)
        else:
            delta = moved.detach() + length * gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(
                -1, 1, 1, 1
            )
            delta = delta - x
            moved = x + delta * (size / delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)).clamp(max=1)
    return broken | (answer(defense, moved).argmax(1) != y)
