"""Metric losses, against their definitions written out in loops."""

import sys

import pytest
import torch

from otad_ray.errors import InputError
from otad_ray.training.metric_losses import METRIC_LOSSES, contrastive_loss, triplet_loss


def batch(seed: int, rows: int = 12, classes: int = 3, scale: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = scale * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return keys.requires_grad_(), torch.randint(classes, (rows,), generator=generator)


def triplets_by_loops(keys: torch.Tensor, labels: torch.Tensor, margin: float) -> list[torch.Tensor]:
    terms = []
    for a in range(len(keys)):
        for p in range(len(keys)):
            for n in range(len(keys)):
                if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
                    continue
                farther = (keys[a] - keys[n]).norm() - (keys[a] - keys[p]).norm()
                if 0 < farther < margin:
                    terms.append(margin - farther)
    return terms


def pairs_by_loops(
    keys: torch.Tensor, labels: torch.Tensor, margin: float
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    like, unlike = [], []
    for a in range(len(keys)):
        for b in range(len(keys)):
            distance = (keys[a] - keys[b]).norm()
            if a != b and labels[a] == labels[b]:
                like.append(distance)
            elif labels[a] != labels[b] and distance < margin:
                unlike.append(margin - distance)
    return like, unlike


@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_triplets(seed: int, margin: float) -> None:
    keys, labels = batch(seed)
    value, active = METRIC_LOSSES["triplet"](margin)(keys, labels)
    terms = triplets_by_loops(keys, labels, margin)
    assert active == len(terms) > 0
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(loss, keys)[0] for loss in (value, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("margin", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_pairs(seed: int, margin: float) -> None:
    keys, labels = batch(seed)
    value, active = METRIC_LOSSES["contrastive"](margin)(keys, labels)
    like, unlike = pairs_by_loops(keys, labels, margin)
    assert active == len(like) + len(unlike)
    assert like
    assert unlike
    expected = torch.stack(like).mean() + torch.stack(unlike).mean()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(loss, keys)[0] for loss in (value, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_the_default_margins() -> None:
    keys, labels = batch(0)
    assert triplet_loss()(keys, labels) == triplet_loss(0.2)(keys, labels)
    assert contrastive_loss()(keys, labels) == contrastive_loss(1.0)(keys, labels)


def test_keys_are_not_normalized() -> None:
    keys, labels = batch(0)
    small, large = (triplet_loss(scale * 0.2)(scale * keys, labels) for scale in (1, 50))
    torch.testing.assert_close(large.loss, 50 * small.loss, rtol=1e-10, atol=0)
    assert small.active == large.active


def test_near_keys_far_from_zero() -> None:
    keys, labels = batch(0, rows=24)
    shifted = (keys + 30).float()
    value, active = triplet_loss(0.2)(shifted, labels)
    assert value.dtype == torch.float32
    terms = triplets_by_loops(shifted.double(), labels, 0.2)
    assert active == len(terms)
    torch.testing.assert_close(value, torch.stack(terms).mean().float())


@pytest.mark.parametrize("name", METRIC_LOSSES)
@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_without_pairs_has_a_zero_that_can_be_differentiated(name: str, rows: int) -> None:
    keys, labels = batch(0, rows=rows)
    value, active = METRIC_LOSSES[name](0.2)(keys, labels)
    assert (float(value.detach()), active) == (0, 0)
    value.backward()
    assert not keys.grad.any()


def test_one_class_or_no_violation_has_no_triplet() -> None:
    for keys, labels in (
        (batch(0)[0], torch.zeros(12, dtype=torch.long)),
        (batch(0)[0], torch.arange(12)),
        ((torch.arange(12.0).unsqueeze(1) // 4 * 9).requires_grad_(), torch.arange(12) // 4),
    ):
        value, active = triplet_loss(0.2)(keys, labels)
        assert (float(value.detach()), active) == (0, 0)
        value.backward()
        assert not keys.grad.any()


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_coinciding_keys_have_finite_gradients(name: str) -> None:
    keys, labels = batch(1, rows=40)
    with torch.no_grad():
        keys[20:] = keys[:20]
        labels[20:30] = labels[:10]
    METRIC_LOSSES[name](0.2)(keys, labels).loss.backward()
    assert keys.grad.isfinite().all()


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_bad_margins(name: str, margin: float) -> None:
    with pytest.raises(InputError, match=f"margin > 0, got {margin}"):
        METRIC_LOSSES[name](margin)


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_without_the_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == "pytorch_metric_learning"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(InputError, match="pip install pytorch-metric-learning"):
        METRIC_LOSSES[name](0.2)
