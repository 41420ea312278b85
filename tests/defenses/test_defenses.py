"""Defenses as modules: logits, gradients, persistence, and the backbone they belong to."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from otad_ray.cip import Regularity
from otad_ray.defenses import DEFENSES, KNN, OTAD, Undefended, load_defense
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import BackboneConfig, build_backbone


def backbone(seed: int = 0):
    torch.manual_seed(seed)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(12,), num_outputs=4)
    torch.nn.init.normal_(net.blocks[0][2].weight, std=0.3)
    return net.eval()


@pytest.fixture
def net():
    return backbone()


@pytest.fixture
def memory(tmp_path: Path, net) -> NeighborMemory:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(60, 12, generator=generator)
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


def test_logits_are_the_head_of_the_integrated_feature(net, memory) -> None:
    otad = OTAD(net, memory, IntegrationConfig(num_neighbors=5))
    inputs = torch.rand(7, 1, 3, 4)
    logits = otad(inputs)
    assert logits.shape == (7, 4)
    index, solution = otad.integrate(inputs)
    torch.testing.assert_close(logits, net.head(solution.feature))
    hull = (solution.weights.float().unsqueeze(1) @ memory.features[index]).squeeze(1)
    torch.testing.assert_close(solution.feature, hull)


def test_gradient_reaches_the_inputs(net, memory) -> None:
    # With l = 0 the feature is constant where one neighbor has all the weight.
    regularity = Regularity(strong_convexity=-0.5)
    otad = OTAD(net, memory, IntegrationConfig(num_neighbors=5, regularity=regularity))
    inputs = torch.rand(3, 1, 3, 4, requires_grad=True)
    logits = otad(inputs)
    logits.sum().backward()
    assert inputs.grad.abs().sum((1, 2, 3)).gt(0).all()
    with torch.no_grad():
        step = 1e-3 * inputs.grad / inputs.grad.norm()
        change = (otad(inputs + step) - logits).sum()
    assert float(change) == pytest.approx(float((inputs.grad * step).sum()), rel=0.05)


def test_knn_is_the_head_of_the_mean_feature(net, memory) -> None:
    inputs = torch.rand(6, 1, 3, 4)
    index, _ = memory.search(inputs.flatten(1), 3)
    expected = net.head(memory.features[index].mean(1))
    torch.testing.assert_close(KNN(net, memory, 3)(inputs), expected)
    inputs.requires_grad_()
    KNN(net, memory, 3)(inputs).sum().backward()
    assert inputs.grad.eq(0).all()


@pytest.mark.parametrize("kind", ["otad", "knn"])
def test_save_and_load(tmp_path: Path, net, memory, kind: str) -> None:
    config = IntegrationConfig(
        num_neighbors=4, regularity=Regularity(smoothness=1.5, strong_convexity=-0.2), cross_term="released"
    )
    defense = OTAD(net, memory, config) if kind == "otad" else KNN(net, memory, 4)
    saved = tmp_path / "root" / "defenses" / "mine"
    defense.save(saved)
    # The storage root may be moved as a whole.
    shutil.move(tmp_path / "root", tmp_path / "elsewhere")
    loaded = load_defense(tmp_path / "elsewhere" / "defenses" / "mine", search="faiss")
    inputs = torch.rand(9, 1, 3, 4)
    torch.testing.assert_close(loaded(inputs), defense(inputs), rtol=0, atol=1e-6)
    assert loaded.settings() == defense.settings()
    assert not loaded.training
    names = {path.name for path in (tmp_path / "elsewhere" / "defenses" / "mine").rglob("*") if path.is_file()}
    assert names == {"defense.json", "backbone.json", "weights.safetensors"}


def test_defenses_are_made_of_a_presets_parts(net, memory) -> None:
    # Without a metric net and a CIP-net: what a defense does not use need not exist.
    parts = SimpleNamespace(backbone=net, memory=memory, metric=None, integration=IntegrationConfig(num_neighbors=4))
    inputs = torch.rand(5, 1, 3, 4)
    for name, expected in (
        ("otad", OTAD(net, memory, parts.integration)),
        ("knn", KNN(net, memory, 4)),
        ("net", Undefended(net)),
    ):
        made = DEFENSES[name].from_parts(parts)
        assert made.identity() == expected.identity()
        torch.testing.assert_close(made(inputs), expected(inputs), rtol=0, atol=0)


def test_identity_is_what_stored_folders_are_named_by(net, memory) -> None:
    # Another value would compute everything again that a storage root holds.
    inputs = {"backbone": net.fingerprint(), "memory": memory.fingerprint}
    assert KNN(net, memory, 4).identity() == {**inputs, "neighbors": 4, "kind": "knn"}
    config = IntegrationConfig(num_neighbors=4)
    assert OTAD(net, memory, config).identity() == {**inputs, "config": config, "kind": "otad"}
    assert Undefended(net).identity() == {"backbone": net.fingerprint(), "kind": "undefended"}


def test_never_overwrites(tmp_path: Path, net, memory) -> None:
    KNN(net, memory, 2).save(tmp_path / "defense")
    with pytest.raises(InputError, match="never overwritten"):
        KNN(net, memory, 3).save(tmp_path / "defense")


def test_a_memory_of_another_backbone_is_refused(memory) -> None:
    with pytest.raises(InputError, match="was built with backbone"):
        OTAD(backbone(seed=1), memory)


def test_a_memory_without_a_record_is_known_by_its_features(tmp_path: Path, net, memory) -> None:
    arrays = ([memory.points], [memory.features], [memory.labels], [memory.ids])
    (tmp_path / "empty").mkdir()
    plain = NeighborMemory.build(tmp_path / "empty", None, *arrays)
    inputs = torch.rand(4, 1, 3, 4)
    torch.testing.assert_close(KNN(net, plain, 3)(inputs), KNN(net, memory, 3)(inputs))
    with pytest.raises(InputError, match="was built with another backbone"):
        KNN(backbone(seed=1), plain, 3)


def test_more_neighbors_than_points_are_refused(net, memory) -> None:
    with pytest.raises(InputError, match="neighbors must be 1 to 60"):
        OTAD(net, memory, IntegrationConfig(num_neighbors=61))
    with pytest.raises(InputError, match="neighbors must be 1 to 60"):
        KNN(net, memory, 61)


def test_nan_inputs_are_refused(net, memory) -> None:
    inputs = torch.rand(3, 1, 3, 4)
    inputs[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="query 1 of 3 holds NaN"):
        OTAD(net, memory, IntegrationConfig(num_neighbors=3))(inputs)


def test_broken_defenses_are_refused(tmp_path: Path, net, memory) -> None:
    with pytest.raises(InputError, match="no defense"):
        load_defense(tmp_path / "nothing")
    saved = tmp_path / "root" / "defense"
    KNN(net, memory, 3).save(saved)
    description = json.loads((saved / "defense.json").read_text())
    for change, message in [
        ({"kind": "magic"}, "unknown defense 'magic'.*known: otad, otad_nn, otad_global, knn, undefended"),
        ({"memory": "../gone"}, "does not exist"),
        ({"settings": {}}, "cannot be used"),
    ]:
        (saved / "defense.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(InputError, match=message):
            load_defense(saved)
