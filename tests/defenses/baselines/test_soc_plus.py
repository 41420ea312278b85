"""The network of skew orthogonal convolutions: what is proven of it holds for what it computes."""

import torch

from otad_ray.defenses.baselines import SocPlus
from otad_ray.defenses.baselines.soc_plus import LipConvNet, SocConfig


def make_net() -> LipConvNet:
    torch.manual_seed(0)
    config = SocConfig(shape=(1, 7, 8), num_outputs=3, width=4, num_blocks=2, depth=2)
    return LipConvNet(config).eval()


def test_margins_change_no_faster_than_proven() -> None:
    net = make_net()
    bound = net.lipschitz_bound()
    x = torch.rand(300, 1, 7, 8, dtype=torch.float64)
    step = 0.1 * torch.randn_like(x)
    with torch.no_grad():
        rows = net.last_rows(torch.float64)
        change = net(x + step) - net(x)
        pair = (change[:, 0] - change[:, 1]).abs() / (rows[0] - rows[1]).norm()
    ratio = pair / step.flatten(1).norm(dim=1) / bound
    assert 0.05 < float(ratio.max()) <= 1
    # Without the scale of the inputs, the product of the norms is 1, up to the rest of the series.
    assert abs(bound / net.config.scale - 1) < 1e-6


def test_rounding_bounds_the_difference_to_double_precision() -> None:
    net, x = make_net(), torch.rand(100, 1, 7, 8)
    with torch.no_grad():
        error = (net(x).double() - net(x.double())).abs().amax(1)
    assert bool((error <= net.rounding(x)).all())


def test_bound_follows_a_change_of_the_weights() -> None:
    net, x = make_net(), torch.rand(2, 1, 7, 8)
    before = net(x)
    with torch.no_grad():
        net.convolutions[0].weight.mul_(-1.5)
    assert not torch.equal(net(x), before)


def test_class_that_does_not_lead_is_not_certified() -> None:
    net = make_net()
    with torch.no_grad():
        net.last.weight[1] = net.last.weight[0]
        net.last.bias.copy_(torch.tensor([0.0, 0.0, -100.0]))
    radius, method = SocPlus(net).certified_radius(torch.rand(5, 1, 7, 8))
    assert radius.tolist() == [0.0] * 5
    assert method == [""] * 5
