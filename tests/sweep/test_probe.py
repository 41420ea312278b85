"""Defenses that are asked for a few samples before the work: refused there, or left as they are."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.digits_jobs import quick_preset
from otad_ray.data import DataFolders
from otad_ray.errors import InputError
from otad_ray.sweep.probe import Probe, probe_defense
from otad_ray.sweep.samples import Samples

SAMPLES = Samples(quick_preset(), "test", DataFolders(), 0, 20)


class Answering(nn.Module):
    """A linear net whose answer is cast."""

    def __init__(self, cast: Any) -> None:
        super().__init__()
        self.cast = cast

    def forward(self, inputs: Tensor) -> Any:
        return self.cast(inputs.flatten(1)[:, :10])


def probe(module: nn.Module) -> Probe:
    workspace: Any = SimpleNamespace(definition=SAMPLES.preset.definition)
    plan: Any = SimpleNamespace(samples=SAMPLES)
    source: Any = SimpleNamespace(name="mine", open=lambda: module)
    return probe_defense(workspace, plan, source)


@pytest.mark.parametrize(
    ("cast", "message"),
    [
        (lambda logits: logits.round().long(), "must return float32 logits, got torch.int64"),
        (lambda logits: logits.to(torch.complex64), "got torch.complex64"),
        (lambda logits: (logits, None), "must return a tensor of logits .* got tuple"),
        (lambda logits: logits.detach().numpy(), "got ndarray"),
        (lambda logits: logits.squeeze(0), r"to logits \(B, C\), got \(10,\)"),
        (lambda logits: logits[:, :3], "labels lie in 0 .. 9, but the defense returns 3 classes"),
        (lambda logits: logits.repeat(1, 2), "the data set has 10 classes, the defense returns 20 logits"),
    ],
)
def test_answers_that_are_no_logits_are_refused_by_the_defenses_name(cast: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"defense 'mine': .*{message}"):
        probe(Answering(cast))


def test_a_defense_without_a_certificate_is_served() -> None:
    found = probe(Answering(lambda logits: logits))
    assert found.not_certified is not None
    assert found.forward_seconds > 0
