"""Modules that users bring: inputs that they may not change, and answers that are served or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from otad_ray.errors import InputError
from otad_ray.evaluation.foreign_module import ask_for_logits, shield, shield_for_good

# People bring what they saved earlier.
_SCRIPTS = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


class InPlace(nn.Module):
    """Normalizes its input in place."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sub_(0.5).flatten(1)


class Answering(nn.Module):
    """Answers what a function makes of its input."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: Tensor) -> Any:
        return self.answer(inputs.flatten(1))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 1, 2, generator=torch.Generator().manual_seed(0))


@_SCRIPTS
@pytest.mark.parametrize("make", [InPlace, lambda: torch.jit.script(InPlace())], ids=["module", "script"])
def test_shield_hands_out_copies_that_gradients_pass(make: Callable[[], nn.Module], x: Tensor) -> None:
    module, before = shield_for_good(make()), x.clone()
    assert torch.equal(module(x), module(x))
    assert torch.equal(x, before)
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(inputs).sum(), inputs)
    assert torch.equal(gradient, torch.ones_like(x))


@_SCRIPTS
def test_shield_keeps_the_class_and_the_state_of_a_module() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    script = torch.jit.script(module)
    assert shield_for_good(module) is module
    assert list(shield_for_good(script).state_dict()) == list(module.state_dict())


def test_shield_is_removed_after_its_block(x: Tensor) -> None:
    module, before = InPlace(), x.clone()
    with shield(module) as shielded:
        shielded(x)
    assert torch.equal(x, before)
    module(x)
    assert torch.equal(x, before - 0.5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_shield_casts_logits_of_half_precision(kind: torch.dtype, x: Tensor) -> None:
    module = shield_for_good(Answering(lambda flat: flat.to(kind)))
    assert torch.equal(module(x), x.flatten(1).to(kind).float())
    assert shield_for_good(Answering(lambda flat: flat.double()))(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda flat: (flat, None), "the model must return a tensor of logits .* got tuple"),
        (lambda flat: flat.numpy(), "got ndarray"),
        (lambda flat: flat.to_sparse(), r"must return dense logits, got torch.sparse_coo; end its forward with"),
        (lambda flat: flat.long(), "must return float32 logits, got torch.int64"),
        (lambda flat: flat.to(torch.complex64), "must return float32 logits, got torch.complex64"),
        (lambda flat: flat.squeeze(0), r"map \(B, ...\) = \(1, 1, 2\) to logits \(B, C\), got \(2,\)"),
        (lambda flat: flat @ torch.zeros(7, 2), "the model raised RuntimeError: .*, on samples"),
    ],
)
def test_answers_that_are_no_logits_are_refused(answer: Callable[[Tensor], Any], message: str, x: Tensor) -> None:
    with pytest.raises(InputError, match=message):
        ask_for_logits(Answering(answer), x, torch.zeros(3, dtype=torch.int64), who="the model")


def test_a_question_for_one_sample_leaves_random_answers_as_they_are(x: Tensor) -> None:
    module = Answering(lambda flat: flat + torch.rand_like(flat))
    torch.manual_seed(0)
    expected = [module(x), module(x)]
    torch.manual_seed(0)
    found = [ask_for_logits(module, x, torch.zeros(3, dtype=torch.int64), who="it"), module(x)]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_sample_that_its_batch_influences_is_warned_of(x: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    ask_for_logits(Answering(lambda flat: flat - flat[0]), x, labels, who="it")
    assert not caplog.records
    ask_for_logits(Answering(lambda flat: flat - flat.mean(0)), x, labels, who="the model")
    assert "the model answers a sample alone otherwise than in a batch" in caplog.text
    with pytest.raises(InputError, match="3 logits for a sample in a batch, and 1 for the same sample alone"):
        ask_for_logits(Answering(lambda flat: flat @ flat.T), x, labels, who="it")
