"""The l_inf-distance net: its Lipschitz constant, and its rounding."""

import torch

from otad_ray.defenses.baselines import LinfDist
from otad_ray.defenses.baselines.linf_dist import LinfDistConfig, LinfDistNet


def make_net() -> LinfDistNet:
    torch.manual_seed(0)
    net = LinfDistNet(LinfDistConfig(shape=(1, 4, 4), num_outputs=3, width=20, depth=4))
    with torch.no_grad():
        net.train()(torch.rand(50, 1, 4, 4))
    return net.eval()


def test_logits_change_no_more_than_inputs() -> None:
    net = make_net().double()
    x = torch.rand(500, 1, 4, 4, dtype=torch.float64)
    step = 0.3 * torch.randn_like(x)
    with torch.no_grad():
        change = (net(x + step) - net(x)).abs().amax(1)
    ratio = change / step.flatten(1).abs().amax(1)
    assert float(ratio.max()) <= 1 + 1e-12
    assert float(ratio.max()) > 0.3


def test_rounding_bounds_the_difference_to_double_precision() -> None:
    net = make_net()
    x = torch.rand(300, 1, 4, 4)
    with torch.no_grad():
        single, bound = net(x), net.rounding(x)
        exact = net.double()(x.double())
    error = (single.double() - exact).abs().amax(1)
    assert bool((error <= bound).all())
    assert float(bound.max()) < 1e-4


def test_certificate_is_half_the_margin() -> None:
    net, x = make_net(), torch.rand(20, 1, 4, 4)
    defense = LinfDist(net)
    with torch.no_grad():
        best, second = defense(x).double().topk(2, dim=1).values.unbind(1)
    radius, method = defense.certified_linf_radius(x)
    torch.testing.assert_close(radius, (best - second) / 2, rtol=1e-3, atol=1e-4)
    assert bool((radius <= (best - second) / 2).all())
    assert all((name == "") == (size == 0) for name, size in zip(method, radius.tolist(), strict=True))
