"""What is certified, what is refused, and a defense's own certificate."""

import pytest
import torch
from torch import nn

from otad_ray.certification import Certificate, certified_radius
from otad_ray.defenses import KNN, OTAD
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig
from otad_ray.models import FCResNet


class OwnCertificate(nn.Module):
    def __init__(self, returned) -> None:
        super().__init__()
        self.returned = returned

    def certified_radius(self, inputs):
        return self.returned


def test_a_defenses_own_certificate_is_used() -> None:
    radius, method = certified_radius(OwnCertificate(([0.5, 0], ("smoothing", ""))), torch.rand(2, 3))
    assert radius.tolist() == [0.5, 0.0]
    assert radius.dtype == torch.float64
    assert method == ["smoothing", ""]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "must return .radius, method., got float"),
        ((torch.zeros(3), ["", "", ""]), r"must return 2 radii and methods, got shape \(3,\)"),
        ((torch.zeros(2), [""]), "1 methods"),
        ((torch.tensor([0.1, float("nan")]), ["a", "b"]), "finite radii"),
        ((torch.tensor([0.1, -0.2]), ["a", "b"]), "OwnCertificate.certified_radius must return finite .* got -0.2"),
    ],
)
def test_a_wrong_certificate_is_refused(returned, message: str) -> None:
    with pytest.raises(InputError, match=message):
        certified_radius(OwnCertificate(returned), torch.rand(2, 3))


def test_plain_networks_and_subclasses_are_refused(clouds) -> None:
    class Changed(OTAD):
        def forward(self, inputs):
            return -super().forward(inputs)

    net, memory, queries = clouds
    for module in (net, nn.Linear(8, 3), Changed(net, memory)):
        known = "OTAD, OTADNN, KNN, OTADGlobal, NearestNeighbor"
        with pytest.raises(InputError, match=f"no certificate for {type(module).__name__}.*one for {known}, and"):
            certified_radius(module, queries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cross_term": "released"}, "cross_term 'released'.*'theory'"),
        ({"solver": "clarabel"}, "solver 'clarabel'.*dual"),
    ],
)
def test_other_programs_and_solvers_are_refused(clouds, fields, message: str) -> None:
    net, memory, queries = clouds
    with pytest.raises(InputError, match=message):
        certified_radius(OTAD(net, memory, IntegrationConfig(**fields)), queries)


@pytest.mark.parametrize(
    ("name", "message"),
    [("embedding_bound", "gives no embedding_bound"), ("affine_head", r"gives no linear_margins\(\)")],
)
def test_backbones_without_a_proof_are_refused(clouds, monkeypatch, name: str, message: str) -> None:
    net, memory, queries = clouds
    monkeypatch.setattr(FCResNet, name, lambda self: None)
    with pytest.raises(InputError, match=f"FCResNet.*{message}"):
        certified_radius(KNN(net, memory), queries)


def test_an_expanding_embedding_divides_the_radius(clouds, monkeypatch) -> None:
    net, memory, queries = clouds
    plain, _ = certified_radius(KNN(net, memory), queries)
    monkeypatch.setattr(FCResNet, "embedding_bound", lambda self: 4.0)
    torch.testing.assert_close(certified_radius(KNN(net, memory), queries).radius, plain / 4)


def test_regression_is_refused(build) -> None:
    net, memory = build(torch.rand(20, 3), torch.rand(20, 3), num_outputs=1)
    with pytest.raises(InputError, match="one output"):
        certified_radius(KNN(net, memory), torch.rand(2, 3))


def test_other_precisions_are_refused(clouds) -> None:
    net, memory, queries = clouds
    defense = KNN(net, memory)
    with pytest.raises(InputError, match=r"float32 inputs, got torch\.float64"):
        certified_radius(defense, queries.double())
    with torch.autocast("cpu"), pytest.raises(InputError, match="autocast is on"):
        certified_radius(defense, queries)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(InputError, match="float32_matmul_precision is 'medium'"):
            certified_radius(defense, queries)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_no_samples_have_no_radii(clouds) -> None:
    net, memory, queries = clouds
    assert certified_radius(KNN(net, memory), queries[:0]) == Certificate(pytest.approx([]), [])
