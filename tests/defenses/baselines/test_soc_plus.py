"""The network of skew orthogonal convolutions: what is proven of it holds for what it computes."""

import pytest
import torch
from torch import Tensor

from otad_ray.defenses.baselines import SocPlus, soc_plus
from otad_ray.defenses.baselines.layers.skew_convolution import apply_at_frequencies
from otad_ray.defenses.baselines.soc_plus import LipConvNet, SocConfig

# What the last layer of `make_tight` is given for its input, in pairs (0, 2) and (1, 3) that are sorted, and stay so.
SORTED = torch.tensor([5.0, 5.0, -5.0, -5.0], dtype=torch.float64)


def make_net() -> LipConvNet:
    torch.manual_seed(0)
    config = SocConfig(shape=(1, 7, 8), num_outputs=3, width=4, num_blocks=2, depth=2)
    return LipConvNet(config).eval()


def make_tight(rows: list[list[float]], biases: list[float]) -> SocPlus:
    """A net of one orthogonal layer (4, 4), which drops nothing, with these rows and biases of its last layer."""
    torch.manual_seed(0)
    net = LipConvNet(SocConfig(shape=(1, 2, 2), num_outputs=len(rows), width=2, num_blocks=1)).eval()
    with torch.no_grad():
        net.last.weight.copy_(torch.tensor(rows))
        net.last.bias.copy_(torch.tensor(biases))
        net.convolutions[0].bias.zero_()
    return SocPlus(net)


def invert_tight(defense: SocPlus, values: Tensor) -> Tensor:
    """The image that the last layer of a tight net is given these values (4,) for, if their pairs are sorted."""
    net = defense.network
    (matrices,) = net.fixed_matrices()
    images = apply_at_frequencies(matrices.transpose(2, 3), values.view(1, 4, 1, 1)) / net.config.scale + 0.5
    return torch.nn.functional.pixel_shuffle(images, 2)


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


def test_bound_holds_also_where_the_series_is_cut_so_short_that_layers_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soc_plus, "_EVALUATION_POWER", 1)
    defense = make_tight([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], [0.0, 0.0])
    net = defense.network
    assert net.lipschitz_bound() > 1.05 * net.config.scale
    # The direction that the layer stretches most, at an input whose pairs are sorted.
    (matrices,) = net.fixed_matrices()
    left, sizes, right = torch.linalg.svd(matrices[0, 0].real)
    values = torch.linalg.solve(matrices[0, 0].real, SORTED)
    x, step = (torch.nn.functional.pixel_shuffle(value.view(1, 4, 1, 1), 2) for value in (values / 4 + 0.5, right[0]))
    with torch.no_grad():
        net.last.weight.copy_(torch.stack([left[:, 0], -left[:, 0]]))
        change = net(x + 0.1 * step) - net(x)
    slope = float((change[0, 0] - change[0, 1]).abs()) / 2 / 0.1
    assert slope == pytest.approx(net.config.scale * float(sizes[0]), rel=1e-5)
    assert slope <= net.lipschitz_bound() * (1 + 1e-6)


def test_certificate_of_a_tight_net_is_right_to_5_digits() -> None:
    defense = make_tight([[1.0, 0, 0, 0], [-0.6, 0.8, 0, 0], [0, 0, 1.0, 0]], [0.0, 0.3, 0.0])
    values = SORTED + torch.tensor([3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    x = invert_tight(defense, values)
    (radius,), method = defense.certified_radius(x)
    rows = defense.network.last_rows(torch.float64).detach()
    worst = (rows[1] - rows[0]) / (rows[1] - rows[0]).norm()

    def classify(factor: float) -> int:
        moved = invert_tight(defense, values + factor * radius * defense.network.config.scale * worst)
        assert float((moved - x).norm()) == pytest.approx(factor * float(radius), rel=1e-9)
        return int(defense(moved).argmax())

    assert method == ["margin"]
    assert (classify(0), classify(1 - 1e-9), classify(1 + 1e-5)) == (0, 0, 1)


def test_certificate_counts_the_rounding_of_far_perturbed_inputs() -> None:
    # Rows are nearly the same, so that the radius is large and logits are rounded to larger steps there.
    defense = make_tight([[0.0, 1.0, 0, 0], [-1e-6, 1.0, 0, 0]], [0.0, 1.0])
    values = SORTED.clone()
    x = invert_tight(defense, values).float()
    (radius,), _ = defense.certified_radius(x)
    assert radius > 1e4
    # Most of the way leads to the boundary; the rest makes logits large, so that they round to the same number.
    angle = torch.tensor(0.06, dtype=torch.float64)
    way = torch.stack([angle.cos(), angle.sin(), *torch.zeros(2, dtype=torch.float64)])
    sizes = torch.linspace(0.99, 1 - 1e-6, 2001, dtype=torch.float64) * radius * defense.network.config.scale
    moved = torch.cat([invert_tight(defense, values + size * way) for size in sizes]).float()
    assert bool(((moved - x).double().flatten(1).norm(dim=1) <= radius).all())
    assert bool((defense(moved).argmax(1) == 1).all())


def test_rounding_bounds_the_difference_to_double_precision() -> None:
    net, x = make_net(), torch.rand(100, 1, 7, 8)
    slope, offset = net.rounding()
    with torch.no_grad():
        error = (net(x).double() - net(x.double())).abs().amax(1)
    assert bool((error <= slope * x.flatten(1).norm(dim=1) + offset).all())
    assert slope * 5 + offset < 1e-4


def test_net_first_used_in_inference_mode_has_gradients_later() -> None:
    net, x = make_net(), torch.rand(2, 1, 7, 8)
    with torch.inference_mode():
        net(x)
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None


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
