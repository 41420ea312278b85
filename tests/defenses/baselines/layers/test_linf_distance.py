"""Distances of the l_inf-distance net, against `torch.cdist`."""

from math import inf

import pytest
import torch

from otad_ray.defenses.baselines.layers import linf_distance
from otad_ray.defenses.baselines.layers.linf_distance import norm_distance


@pytest.mark.parametrize("p", [2.0, 8.0, inf])
def test_distances_and_gradients_are_cdists(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks smaller than the whole, which do not divide it.
    monkeypatch.setattr(linf_distance, "_BLOCK", 40)
    torch.manual_seed(0)
    pairs = []
    for distance in (norm_distance, torch.cdist):
        torch.manual_seed(1)
        inputs = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(11, 7, dtype=torch.float64, requires_grad=True)
        found = distance(inputs, weight, p)
        (found * torch.linspace(-1, 2, 11, dtype=torch.float64)).sum().backward()
        pairs.append((found.detach(), inputs.grad, weight.grad))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_large_p_does_not_overflow() -> None:
    inputs, weight = 1e3 * torch.randn(4, 30), torch.randn(6, 30)
    torch.testing.assert_close(norm_distance(inputs, weight, 1000.0), norm_distance(inputs, weight), rtol=1e-2, atol=0)
