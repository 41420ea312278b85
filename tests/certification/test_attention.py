"""Theorem 1: bounds against full Jacobians, closed forms, ascent over the tokens; and a network's report."""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from otad_ray.certification.attention import attention_bound, attention_report, empirical_lipschitz
from otad_ray.errors import InputError
from otad_ray.models import Attention, ViT, ViTArchitecture

SHAPES = [(1, 2, 1), (2, 2, 1), (2, 4, 2), (3, 6, 3), (5, 4, 4)]


def random_attention(width: int, num_heads: int, seed: int, *, scales: tuple[float, ...] = (1, 1, 1, 1)) -> Attention:
    """scales: of queries, keys, values and the output."""
    attention, generator = Attention(width, num_heads), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        parts = torch.randn(4, width, width, generator=generator) * torch.tensor(scales).view(4, 1, 1)
        attention.queries_keys_values.weight.copy_(parts[:3].flatten(0, 1))
        attention.output.weight.copy_(parts[3])
    return attention.double()


def in_ball(num: int, num_tokens: int, width: int, radius: float, seed: int = 0) -> Tensor:
    """Tokens (num, N, D) of `|X|_F` up to the radius; half of the samples have some of norm zero."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num, num_tokens, width, generator=generator, dtype=torch.float64)
    tokens[::2] *= torch.rand(len(tokens[::2]), num_tokens, 1, generator=generator) < 0.6
    lengths = radius * torch.rand(num, 1, 1, generator=generator, dtype=torch.float64) ** 0.2
    return tokens * (lengths / torch.linalg.matrix_norm(tokens, keepdim=True).clamp_min(1e-9))


def jacobians(attention: Attention, tokens: Tensor) -> Tensor:
    """(B, N D, N D), by reverse mode."""
    parts = []
    with sdpa_kernel(SDPBackend.MATH):
        for sample in tokens:
            found = torch.autograd.functional.jacobian(lambda x: attention(x.unsqueeze(0))[0], sample)
            parts.append(found.reshape(sample.numel(), sample.numel()))
    return torch.stack(parts)


@pytest.mark.parametrize(("num_tokens", "width", "num_heads"), SHAPES)
@pytest.mark.parametrize("radius", [0.1, 1.0, 10.0])
def test_empirical_constants_are_the_largest_singular_values(
    num_tokens: int, width: int, num_heads: int, radius: float
) -> None:
    attention = random_attention(width, num_heads, seed=num_tokens)
    tokens = in_ball(8, num_tokens, width, radius)
    expected = torch.linalg.matrix_norm(jacobians(attention, tokens), 2)
    torch.testing.assert_close(empirical_lipschitz(attention, tokens), expected, rtol=1e-6, atol=1e-12)


def test_empirical_constants_do_not_depend_on_the_batch_nor_on_the_precision() -> None:
    attention, tokens = random_attention(24, 3, seed=0), in_ball(5, 9, 24, 5.0)
    together = empirical_lipschitz(attention, tokens)
    alone = torch.cat([empirical_lipschitz(attention, sample.unsqueeze(0)) for sample in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)
    single = empirical_lipschitz(attention.float(), tokens.float())
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, together, rtol=1e-4, atol=0)


def test_a_constant_attention_has_no_slope() -> None:
    attention = random_attention(4, 2, seed=0, scales=(1, 1, 1, 0))
    assert torch.equal(empirical_lipschitz(attention, in_ball(3, 5, 4, 1.0)), torch.zeros(3, dtype=torch.float64))
    assert attention_bound(attention, num_tokens=5, radius=1.0).sharper == 0


@pytest.mark.parametrize("seed", range(12))
def test_no_slope_exceeds_the_bounds(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_tokens, width, num_heads = SHAPES[seed % len(SHAPES)]
    scales = tuple((10 ** (3 * torch.rand(4, generator=generator) - 1.5)).tolist())
    attention = random_attention(width, num_heads, seed, scales=scales)
    for radius in (0.01, 0.3, 3.0, 30.0):
        bound = attention_bound(attention, num_tokens=num_tokens, radius=radius)
        found = empirical_lipschitz(attention, in_ball(200, num_tokens, width, radius, seed))
        assert found.max() <= bound.sharper * (1 + 1e-12)
        assert bound.sharper <= bound.theorem * (1 + 1e-12)


@pytest.mark.parametrize("radius", [0.5, 2.0, 8.0])
@pytest.mark.parametrize(("num_tokens", "width", "num_heads"), [(1, 2, 1), (2, 2, 1), (3, 4, 2)])
def test_nor_where_the_slope_is_driven_up(num_tokens: int, width: int, num_heads: int, radius: float) -> None:
    attention = random_attention(width, num_heads, seed=7, scales=(2, 2, 1, 1)).requires_grad_(False)
    bound = attention_bound(attention, num_tokens=num_tokens, radius=radius)

    def slope(tokens: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            jacobian = torch.func.jacrev(lambda x: attention(x.unsqueeze(0))[0])(tokens)
        return torch.linalg.matrix_norm(jacobian.reshape(tokens.numel(), -1), 2)

    starts = in_ball(4, num_tokens, width, radius, seed=3)
    highest = [_ascend(slope, tokens, radius) for tokens in starts]
    assert max(highest) <= bound.sharper * (1 + 1e-12) <= bound.theorem
    if num_tokens > 1:
        assert max(highest) > 1.1 * float(empirical_lipschitz(attention, starts).max())


def _ascend(slope: Callable[[Tensor], Tensor], tokens: Tensor, radius: float) -> float:
    """The largest slope that steps along the gradient within the ball find; a step that loses is halved."""
    highest, size = slope(tokens), 0.2 * radius
    for _ in range(40):
        gradient = torch.func.grad(slope)(tokens)
        moved = tokens + size * gradient / gradient.norm().clamp_min(1e-12)
        moved = moved * (radius / moved.norm()).clamp_max(1)
        found = slope(moved)
        if found > highest:
            highest, tokens = found, moved
        else:
            size /= 2
    return float(highest)


def test_one_head_closed_forms() -> None:
    attention = Attention(2, 1).double()
    with torch.no_grad():
        weight = torch.cat([torch.diag(torch.tensor(part)) for part in ((3.0, 0.0), (0.5, 2.0), (1.0, 4.0))])
        attention.queries_keys_values.weight.copy_(weight)
        attention.output.weight.copy_(torch.tensor([[0.0, 5.0], [1.0, 0.0]]))
    # |K Q'| = 1.5, |V| = 4, |W| = 5; the largest Frobenius norm is that of W.
    bound = attention_bound(attention, num_tokens=9, radius=2.0)
    assert bound.sharper == pytest.approx(5 * 4 * (1.5 / sqrt(2) * 4 * (3 + 1) + 3))
    assert bound.theorem == pytest.approx(26 * (26 / sqrt(2) * 4 * (3 + 1) + 3))
    # One token is mapped by `V W` alone, whatever the logits are.
    one = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(empirical_lipschitz(attention, one), torch.full((3,), 20.0, dtype=torch.float64))
    at_zero = attention_bound(attention, num_tokens=1, radius=0.0)
    assert at_zero.sharper == pytest.approx(20)


def test_queries_keys_and_values_are_not_mixed_up() -> None:
    """With two heads, of which one reads and writes nothing: scaling a part changes what the theorem says it does."""
    attention = Attention(4, 2).double()
    with torch.no_grad():
        weight = torch.zeros(3, 2, 2, 4, dtype=torch.float64)
        for part, scale in enumerate((2.0, 3.0, 7.0)):
            weight[part, 1] = scale * torch.eye(2, 4)
        attention.queries_keys_values.weight.copy_(weight.flatten(0, 2))
        attention.output.weight.copy_(torch.eye(4))
    bound = attention_bound(attention, num_tokens=4, radius=3.0)
    assert bound.sharper == pytest.approx(7 * (2 * 3 / sqrt(2) * 9 * 3 + 2))
    assert bound.theorem == pytest.approx(sqrt(2) * 98 * (98 / sqrt(2) * 9 * 3 + 2))


def test_bounds_grow_with_the_radius_squared() -> None:
    attention = random_attention(6, 3, seed=0)
    at_zero, near, far = (attention_bound(attention, num_tokens=4, radius=radius) for radius in (0.0, 1e3, 2e3))
    for name in ("theorem", "sharper"):
        base = getattr(at_zero, name)
        assert getattr(far, name) / getattr(near, name) == pytest.approx(4, rel=1e-3)
        assert 0 < base < getattr(near, name)
    values, output = attention.queries_keys_values.weight.detach()[12:], attention.output.weight.detach()
    spectral = torch.linalg.matrix_norm(values.unflatten(0, (3, 2)), 2).norm() * torch.linalg.matrix_norm(output, 2)
    assert at_zero.sharper == pytest.approx(2 * float(spectral))


@pytest.mark.parametrize(("num_tokens", "radius"), [(0, 1.0), (3, -1.0), (3, float("nan"))])
def test_impossible_balls(num_tokens: int, radius: float) -> None:
    with pytest.raises(ValueError, match="need num_tokens >= 1 and radius >= 0"):
        attention_bound(Attention(4, 2), num_tokens=num_tokens, radius=radius)


def small_vit() -> ViT:
    config = ViTArchitecture(
        shape=(1, 8, 8),
        num_outputs=3,
        patch_size=4,
        width=12,
        num_blocks=3,
        num_heads=2,
        hidden=8,
        pooling="class_token",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = ViT(config)
        for block in vit.blocks:
            for layer in (block.attention.attention.output, block.mlp[-1]):
                nn.init.normal_(layer.weight, std=0.3)
    return vit


@pytest.mark.parametrize("training", [False, True])
def test_the_report_has_a_record_for_each_block(training: bool) -> None:
    vit, images = small_vit().train(training), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    records = attention_report(vit, images)
    assert [record.name for record in records] == [f"blocks.{index}.attention.attention" for index in range(3)]
    assert all(module.training == training for module in vit.modules())
    assert not any(module._forward_pre_hooks for module in vit.modules())
    tokens = vit.embed(images).view(6, 5, 12)
    for block, record in zip(vit.blocks, records, strict=True):
        entering = block.attention.norm(tokens).detach().double()
        constants = empirical_lipschitz(block.attention.attention, entering)
        assert record.num_tokens == 5
        assert record.radius == pytest.approx(float(entering.flatten(1).norm(dim=1).max()))
        assert record.bound == attention_bound(block.attention.attention, num_tokens=5, radius=record.radius)
        assert record.largest == pytest.approx(float(constants.max()))
        assert record.mean == pytest.approx(float(constants.mean()))
        assert 0 < record.mean < record.largest < record.bound.sharper < record.bound.theorem
        tokens = block(tokens)


def test_an_attention_may_be_run_more_than_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = random_attention(4, 2, seed=0)

        def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
            return self.attention(first), self.attention(second)

    first, second = in_ball(3, 5, 4, 1.0), in_ball(3, 7, 4, 2.0, seed=1)
    net = Twice()
    (record,) = attention_report(net, first, second)
    (at_first,), (at_second,) = (attention_report(net, tokens, tokens) for tokens in (first, second))
    assert record.num_tokens == 7
    assert record.radius == max(at_first.radius, at_second.radius)
    assert record.largest == pytest.approx(max(at_first.largest, at_second.largest))
    assert record.mean == pytest.approx((at_first.mean + at_second.mean) / 2)


def test_refused_reports() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    with pytest.raises(InputError, match="no attention that Theorem 1 could bound"):
        attention_report(nn.Linear(4, 4), torch.rand(2, 4))
    with pytest.raises(InputError, match="no tokens enter the attention 'attention'"):
        attention_report(Idle(), torch.rand(2, 4))
    with pytest.raises(InputError, match="no tokens enter"):
        attention_report(random_attention(4, 2, seed=0), torch.rand(0, 5, 4).double())
    vit = small_vit()
    with pytest.raises(InputError, match="not finite"):
        attention_report(vit, torch.full((2, 1, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="takes images of shape"):
        attention_report(vit, torch.rand(2, 1, 9, 9))
    assert not any(module._forward_pre_hooks for module in vit.modules())
