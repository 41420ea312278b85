"""The attacks' measurements compare as many steps and queries on the same net."""

import pytest
import torch
from torch import nn

from otad_ray.attacks import Budget
from otad_ray.benchmarks import measure_pgd, measure_square
from otad_ray.errors import InputError


@pytest.mark.parametrize(
    ("measure", "library"), [(measure_square, "20 queries, pyautoattack"), (measure_pgd, "foolbox")]
)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_is_compared_on_the_same_net(measure, library: str, norm: str) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.rand(20, 1, 8, 8)
    y = net(x).argmax(1)
    size = {"queries": 20} if measure is measure_square else {"steps": 20}
    before = torch.random.get_rng_state()
    measurement = measure(net, x, y, Budget(eps=0.01, norm=norm, bounds=(0.0, 1.0)), **size)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert measurement.name.endswith(norm)
    assert measurement.ratio == pytest.approx(measurement.reference / measurement.ours)
    assert library in measurement.note
    assert "robust accuracy" in measurement.note


def test_libraries_need_their_bounds() -> None:
    net, x, y = nn.Linear(4, 2), torch.rand(2, 4), torch.zeros(2, dtype=torch.int64)
    for measure in (measure_square, measure_pgd):
        with pytest.raises(InputError, match=r"bounds \[0, 1\]"):
            measure(net, x, y, Budget(eps=0.1))
