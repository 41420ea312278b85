"""Users' modules: those whose parameters hold no values are refused by name, and odd ones are told apart."""

from pathlib import Path

import pytest
import torch

from otad_ray.errors import InputError
from otad_ray.recipes.user_module import _build_module, build_module, digest_state

FILE = """
import torch
from torch import nn

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

def meta():
    with torch.device("meta"):
        return nn.Linear(4, 2)

class Silent(nn.Linear):
    def state_dict(self, *arguments, **named):
        raise RuntimeError("no state here")

def no_state():
    return Silent(4, 2)

class Extra(nn.Identity):
    def get_extra_state(self):
        return object()

class InPlace(nn.Module):
    def forward(self, inputs):
        return inputs.mul_(2.0).half()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "odd.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lazy", r"odd.py:lazy: 1\.bias has no values yet|odd.py:lazy: 1\.weight has no values yet"),
        ("meta", "odd.py:meta: weight is on the meta device and has no values"),
        ("no_state", r"state_dict\(\) fails on: RuntimeError: no state here"),
    ],
)
def test_modules_without_values_are_refused_by_name(name: str, message: str, file: Path) -> None:
    with pytest.raises(InputError, match=message):
        build_module(f"{file}:{name}")


def test_a_module_is_shielded(file: Path) -> None:
    inputs = torch.ones(1, 2)
    answer = build_module(f"{file}:InPlace")(inputs)
    assert answer.dtype == torch.float32
    assert torch.equal(inputs, torch.ones(1, 2))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_digest_of_a_sparse_buffer_shows_its_values() -> None:
    digests = []
    for layout in (torch.sparse_coo, torch.sparse_csr):
        for scale in (1.0, 1.0, 2.0):
            module = torch.nn.Identity()
            module.register_buffer("adjacency", (scale * torch.eye(3)).to_sparse(layout=layout))
            digests.append(digest_state(module))
    assert digests[:3] == digests[3:]
    assert digests[0] == digests[1] != digests[2]


def test_digest_does_not_show_where_an_object_lies(file: Path) -> None:
    first = digest_state(build_module(f"{file}:Extra"))
    _build_module.cache_clear()
    assert digest_state(build_module(f"{file}:Extra")) == first
