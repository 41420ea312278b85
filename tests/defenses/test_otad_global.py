"""OTAD over all training points: its logits, its files, and the pieces that it refuses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from otad_ray.cip import Pieces, Status
from otad_ray.defenses import DEFENSES, OTADGlobal, load_defense
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory, PotentialConfig, move_pieces
from otad_ray.models import Backbone, BackboneConfig, build_backbone

CONFIG = PotentialConfig(smoothness=1.8, share=0.7)


@pytest.fixture
def net() -> Backbone:
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(12,), num_outputs=4)
    torch.nn.init.normal_(net.blocks[0][2].weight, std=0.3)
    return net.eval()


@pytest.fixture
def memory(tmp_path: Path, net: Backbone) -> NeighborMemory:
    points = torch.rand(60, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = net.features(points)
    return NeighborMemory.build(
        tmp_path / "root" / "memory",
        None,
        [points],
        [features],
        [torch.arange(60) % 4],
        [torch.arange(60)],
        provenance={"backbone": net.fingerprint()},
    )


@pytest.fixture
def defense(net: Backbone, memory: NeighborMemory) -> OTADGlobal:
    pieces = move_pieces(memory, memory.points.double().square().sum(1) / 2, CONFIG)
    parts = SimpleNamespace(backbone=net, memory=memory, metric=None, potential=CONFIG, pieces=pieces)
    made = DEFENSES["otad_global"].from_parts(parts)
    assert isinstance(made, OTADGlobal)
    return made


def test_logits_are_the_head_of_the_solution(defense: OTADGlobal) -> None:
    inputs = torch.rand(7, 1, 3, 4)
    logits, feature, solution = defense.forward_details(inputs)
    torch.testing.assert_close(logits, defense.backbone.head(feature))
    torch.testing.assert_close(defense(inputs), logits)
    assert set(solution.status.tolist()) == {Status.SOLVED}
    hull = (solution.weights.float().unsqueeze(2) * defense.pieces.features[solution.index]).sum(1)
    torch.testing.assert_close(feature, hull, rtol=0, atol=1e-5)


def test_the_gradient_is_that_of_the_logits(defense: OTADGlobal) -> None:
    inputs = torch.rand(3, 1, 3, 4, requires_grad=True)
    logits = defense(inputs)
    logits[:, 0].sum().backward()
    assert inputs.grad.abs().sum() > 0
    with torch.no_grad():
        step = 1e-3 * inputs.grad / inputs.grad.norm()
        change = (defense(inputs + step) - logits)[:, 0].sum()
    assert float(change) == pytest.approx(float((inputs.grad * step).sum()), rel=0.05)


def test_save_and_load_map_the_pieces(tmp_path: Path, defense: OTADGlobal) -> None:
    saved = tmp_path / "root" / "defenses" / "mine"
    defense.save(saved)
    # The storage root may be moved as a whole.
    shutil.move(tmp_path / "root", tmp_path / "elsewhere")
    place = tmp_path / "elsewhere" / "defenses" / "mine"
    loaded = load_defense(place)
    inputs = torch.rand(9, 1, 3, 4)
    torch.testing.assert_close(loaded(inputs), defense(inputs), rtol=0, atol=0)
    assert loaded.identity() == defense.identity()
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert {"pieces/features.npy", "pieces/offsets.npy"} < names
    (place / "pieces" / "offsets.npy").write_bytes(b"half")
    with pytest.raises(InputError, match="missing or truncated"):
        load_defense(place)


def test_identity_changes_with_the_offsets(defense: OTADGlobal) -> None:
    pieces = Pieces(defense.pieces.features, defense.pieces.offsets + torch.linspace(0, 1, 60, dtype=torch.float64))
    other = OTADGlobal(defense.backbone, defense.memory, pieces, smoothness=1.8, share=0.7)
    assert other.identity()["offsets"] != defense.identity()["offsets"]
    assert {**other.identity(), "offsets": 0} == {**defense.identity(), "offsets": 0}


def test_refuses_pieces_of_another_memory(defense: OTADGlobal) -> None:
    net, memory, pieces = defense.backbone, defense.memory, defense.pieces
    with pytest.raises(InputError, match="are not those of"):
        OTADGlobal(net, memory, Pieces(pieces.features[:50], pieces.offsets[:50]), smoothness=1.8, share=0.7)
    with pytest.raises(InputError, match=r"with share 1\.0; make them"):
        OTADGlobal(net, memory, pieces, smoothness=1.8, share=1.0)
    with pytest.raises(InputError, match="smoothness L > 0"):
        OTADGlobal(net, memory, pieces, smoothness=0.0, share=0.7)


def test_an_input_that_is_not_finite_has_failed(defense: OTADGlobal) -> None:
    inputs = torch.rand(2, 1, 3, 4)
    inputs[1, 0, 0, 0] = torch.nan
    logits, _, solution = defense.forward_details(inputs)
    assert solution.status.tolist() == [Status.SOLVED, Status.FAILED]
    assert torch.isfinite(logits).all()


def test_a_description_without_its_settings_is_refused(tmp_path: Path, defense: OTADGlobal) -> None:
    saved = tmp_path / "root" / "defense"
    defense.save(saved)
    description = json.loads((saved / "defense.json").read_text())
    (saved / "defense.json").write_text(json.dumps({**description, "settings": {}}))
    with pytest.raises(InputError, match="cannot be used"):
        load_defense(saved)
