"""OTAD over all training points: its logits, its files, and the pieces that it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from otad_ray.cip import Pieces, Status
from otad_ray.defenses import DEFENSES, OTADGlobal, load_defense
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory, PotentialConfig, average_pieces, cluster_points, move_pieces
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
    return make(net, memory, move_pieces(memory, potentials(memory), CONFIG))


def make(net: Backbone, memory: NeighborMemory, pieces: Pieces, clusters: torch.Tensor | None = None) -> OTADGlobal:
    parts = SimpleNamespace(
        backbone=net, memory=memory, metric=None, potential=CONFIG, pieces=pieces, clusters=clusters
    )
    made = DEFENSES["otad_global"].from_parts(parts)
    assert isinstance(made, OTADGlobal)
    return made


def compress(defense: OTADGlobal, **fields) -> OTADGlobal:
    memory, config = defense.memory, replace(CONFIG, **fields)
    clusters = cluster_points(memory, config)
    return make(defense.backbone, memory, average_pieces(memory, potentials(memory), clusters, config), clusters)


def potentials(memory: NeighborMemory) -> torch.Tensor:
    return memory.points.double().square().sum(1) / 2


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


def test_a_compressed_potential_survives_save_and_load(tmp_path: Path, defense: OTADGlobal) -> None:
    compressed = compress(defense, pieces=20)
    assert len(compressed.pieces) == len(compressed.piece_classes) == 20
    place = tmp_path / "root" / "defenses" / "small"
    compressed.save(place)
    loaded = load_defense(place)
    inputs = torch.rand(9, 1, 3, 4)
    torch.testing.assert_close(loaded(inputs), compressed(inputs), rtol=0, atol=0)
    assert loaded.identity() == compressed.identity()
    assert (loaded(inputs) - defense(inputs)).norm() > 1e-3
    (place / "pieces" / "clusters.npy").unlink()
    with pytest.raises(InputError, match="missing or truncated"):
        load_defense(place)


def test_with_a_piece_for_each_point_nothing_is_compressed(defense: OTADGlobal) -> None:
    inputs = torch.rand(9, 1, 3, 4)
    torch.testing.assert_close(compress(defense, pieces=60)(inputs), defense(inputs), rtol=0, atol=1e-4)


def test_identity_says_how_pieces_were_chosen(defense: OTADGlobal) -> None:
    identities = [compress(defense, **fields).identity() for fields in ({"pieces": 20}, {"pieces": 21})]
    identities += [compress(defense, pieces=20, seed=1).identity(), defense.identity()]
    assert all(first != second for place, first in enumerate(identities) for second in identities[:place])
    # That of all pieces is what it was before they could be compressed.
    assert set(defense.identity()) == {"kind", "backbone", "memory", "smoothness", "share", "offsets"}
    assert set(identities[0]) == {*defense.identity(), "pieces", "clusters"}


def test_refuses_means_of_other_clusters(defense: OTADGlobal) -> None:
    net, memory, compressed = defense.backbone, defense.memory, compress(defense, pieces=20)
    pieces, clusters = compressed.pieces, compressed.clusters
    for wrong in (compress(defense, pieces=20, seed=1).clusters, clusters[:50], compress(defense, pieces=19).clusters):
        with pytest.raises(InputError, match="average_pieces, of the same clusters"):
            make(net, memory, pieces, wrong)
    with pytest.raises(InputError, match=r"these 20 pieces.*move_pieces"):
        make(net, memory, pieces)


def test_a_share_of_a_regressions_displacement_is_refused(memory: NeighborMemory, net: Backbone) -> None:
    """Its outputs would shift: half of the way to a feature is half of the way to its target."""
    net.num_outputs = 1
    with pytest.raises(InputError, match=r"potential.share is 0.7, .* give --potential.share 1"):
        make(net, memory, move_pieces(memory, potentials(memory), CONFIG))
    whole = move_pieces(memory, potentials(memory), replace(CONFIG, share=1.0))
    assert OTADGlobal(net, memory, whole, smoothness=2.0, share=1.0).share == 1
