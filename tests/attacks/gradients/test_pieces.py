"""The direction between pieces: where the exact gradient is zero, and within the attack of the catalog."""

from pathlib import Path

import pytest
import torch

from otad_ray.attacks import Budget, Streams, find_attack
from otad_ray.attacks.gradients import find_piece_direction
from otad_ray.defenses import OTADGlobal
from otad_ray.memory import NeighborMemory, PotentialConfig, move_pieces
from otad_ray.models import BackboneConfig, build_backbone

LABELS = torch.tensor([0, 1])


@pytest.fixture
def defense(tmp_path: Path) -> OTADGlobal:
    """Two clouds whose points have one feature each, so that one piece is active nearly everywhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    points = torch.where(labels.unsqueeze(1) == 0, 0.2, 0.8) + 0.02 * torch.randn(40, 4, generator=generator)
    features = 2 * torch.eye(2, 4)[labels]
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(4,), num_outputs=2).eval()
    with torch.no_grad():
        net.classifier.weight.copy_(torch.eye(2, 4))
        net.classifier.bias.zero_()
    memory = NeighborMemory.build(
        tmp_path / "memory",
        None,
        [points],
        [features],
        [labels],
        [torch.arange(40)],
        provenance={"backbone": net.fingerprint()},
    )
    # Potentials that make the border the plane half way between the clouds.
    potentials = (features.double() * points.double()).sum(1) - torch.where(labels == 0, 0.4, 1.6)
    pieces = move_pieces(memory, potentials, PotentialConfig(smoothness=50.0, share=1.0))
    return OTADGlobal(net, memory, pieces, smoothness=50.0, share=1.0).eval()


def inputs() -> torch.Tensor:
    return torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.8, 0.8]])


def test_leads_from_the_right_feature_to_a_wrong_one(defense: OTADGlobal) -> None:
    direction = find_piece_direction(defense, inputs(), LABELS)
    across = torch.tensor([[-2.0, 2, 0, 0], [2, -2, 0, 0]])
    torch.testing.assert_close(direction, across)
    # Nothing is right, or nothing is wrong, for a class without pieces.
    assert not find_piece_direction(defense, inputs(), torch.tensor([7, 7])).any()


def test_moves_where_the_exact_gradient_is_zero(defense: OTADGlobal) -> None:
    x = inputs()[:1].requires_grad_()
    logits = defense(x)
    (gradient,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], x)
    assert not gradient.any()
    budget = Budget(eps=1.0, bounds=(0.0, 1.0))
    streams = Streams.of(0, range(1))
    label = logits.argmax(1).detach()
    found = find_attack("piece_pgd")(defense, x.detach(), label, budget, streams)
    assert defense(found.x_adv).argmax(1) != label
    # The pieces are seen in the solution that the gradient is taken of: they cost no query.
    assert found.queries[0] <= found.gradient_queries[0] + 2


def test_of_other_defenses_it_is_the_exact_gradient() -> None:
    net = torch.nn.Linear(4, 2)
    budget, streams = Budget(eps=0.1), Streams.of(0, range(2))
    found = find_attack("piece_pgd")(net, inputs(), net(inputs()).argmax(1), budget, streams)
    # A query before, one after, and none for a direction.
    assert (found.queries <= found.gradient_queries + 2).all()
