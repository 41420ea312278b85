"""Backbones, their checkpoints and their training."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.models import BackboneConfig, build_backbone, count_backbone_bytes, load_backbone, save_backbone
from otad_ray.training import EpochMetrics, TrainingConfig, accuracy, train_backbone


def small(architecture: str = "fc_resnet", seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_backbone(BackboneConfig(architecture=architecture, num_blocks=2), shape=(64,), num_outputs=10)


def test_a_new_resnet_is_the_identity() -> None:
    inputs = torch.rand(5, 1, 8, 8)
    backbone = small()
    features, energy = backbone.transport(backbone.embed(inputs))
    torch.testing.assert_close(features, inputs.flatten(1))
    torch.testing.assert_close(energy, torch.zeros(5))


@pytest.mark.parametrize("architecture", ["fc_resnet", "fc_plain"])
def test_energy_is_that_of_the_path(architecture: str) -> None:
    backbone = small(architecture)
    torch.nn.init.normal_(backbone.blocks[0][2].weight, std=0.1)
    points = torch.rand(4, 64)
    path = [points]
    for block in backbone.blocks:
        path.append(block(path[-1]) + (path[-1] if architecture == "fc_resnet" else 0))
    features, energy = backbone.transport(points)
    torch.testing.assert_close(features, path[-1])
    torch.testing.assert_close(energy, sum((b - a).square().sum(1) for a, b in pairwise(path)))


@pytest.mark.parametrize("architecture", ["fc_resnet", "fc_plain"])
def test_checkpoint_round_trip(tmp_path: Path, architecture: str) -> None:
    backbone = small(architecture, seed=3)
    save_backbone(tmp_path, backbone)
    loaded = load_backbone(tmp_path)
    inputs = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(loaded(inputs), backbone(inputs), rtol=0, atol=0)
    assert loaded.fingerprint() == backbone.fingerprint()
    assert small(architecture, seed=4).fingerprint() != backbone.fingerprint()


def test_a_narrow_net_has_hidden_layers_of_its_own_width(tmp_path: Path) -> None:
    backbone = build_backbone(BackboneConfig(num_blocks=2, hidden=7), shape=(64,), num_outputs=10)
    assert [tuple(layer.weight.shape) for layer in backbone.blocks[1] if hasattr(layer, "weight")] == [(7, 64), (64, 7)]
    save_backbone(tmp_path, backbone)
    assert load_backbone(tmp_path).config.hidden == 7
    for name in ("hidden", "num_blocks"):
        with pytest.raises(InputError, match=f"need {name} >= 1, got 0"):
            BackboneConfig(**{name: 0})


def test_checkpoints_from_before_an_option_load_and_keep_their_fingerprint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(num_blocks=2), shape=(8,), num_outputs=3)
    save_backbone(tmp_path, backbone)
    config = tmp_path / "backbone.json"
    description = json.loads(config.read_text())
    del description["config"]["hidden"]
    config.write_text(json.dumps(description))
    assert load_backbone(tmp_path).fingerprint() == backbone.fingerprint()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(0.5)
    assert backbone.fingerprint() == "1273c30072899a772bc1c26a4a49c2a997460f18202ddd597fa1e2426c2cd55e"


def test_fingerprints_tell_architectures_with_equal_weights_apart() -> None:
    residual, plain = small("fc_resnet"), small("fc_plain")
    plain.load_state_dict(residual.state_dict())
    assert residual.fingerprint() != plain.fingerprint()


def test_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"backbone\.json"):
        load_backbone(tmp_path)
    save_backbone(tmp_path, small())
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(tmp_path)
    save_backbone(tmp_path, small())
    config = tmp_path / "backbone.json"
    config.write_text(config.read_text().replace('"num_blocks": 2', '"num_blocks": 3'))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(tmp_path)
    config.write_text(config.read_text().replace("fc_resnet", "fc_unknown"))
    with pytest.raises(InputError, match="known: fc_resnet, fc_plain"):
        load_backbone(tmp_path)


def test_wrong_sample_size() -> None:
    with pytest.raises(ValueError, match="64 values"):
        small()(torch.rand(2, 1, 28, 28))


@pytest.mark.parametrize("architecture", ["fc_resnet", "fc_plain"])
def test_training_learns_digits(architecture: str) -> None:
    train, test = (load_all(open_split(data_set("digits"), split)) for split in ("train", "test"))
    history: list[EpochMetrics] = []
    config = TrainingConfig(epochs=12, batch_size=64, learning_rate=0.1, energy_weight=0.0)
    backbone = train_backbone(small(architecture), train.x, train.y, config, on_epoch=history.append)
    assert [metrics.epoch for metrics in history] == list(range(1, 13))
    assert history[-1].loss < history[0].loss / 4
    assert accuracy(backbone, test.x, test.y) > 0.93
    assert not backbone.training


def test_training_is_deterministic_and_the_energy_weight_shortens_the_path() -> None:
    train = load_all(open_split(data_set("digits"), "train"))
    results = {}
    for weight in (0.0, 0.0, 0.1):
        history: list[EpochMetrics] = []
        config = TrainingConfig(epochs=4, batch_size=64, learning_rate=0.1, energy_weight=weight)
        backbone = train_backbone(small(), train.x, train.y, config, on_epoch=history.append)
        fingerprint, energy = backbone.fingerprint(), history[-1].energy
        assert results.setdefault(weight, (fingerprint, energy)) == (fingerprint, energy)
    assert results[0.1][1] < results[0.0][1] / 3


def test_a_diverging_run_says_so() -> None:
    train = load_all(open_split(data_set("digits"), "train"))
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train_backbone(small(), train.x, train.y, TrainingConfig(epochs=3, learning_rate=1e6))


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"energy_weight": float("nan")}]
)
def test_training_config_refuses(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainingConfig(**change)


@pytest.mark.parametrize("architecture", ["fc_resnet", "fc_plain", "vit"])
def test_bytes_are_counted_without_allocating_or_drawing(architecture: str) -> None:
    options = BackboneConfig(architecture=architecture, num_blocks=2)
    before = torch.get_rng_state()
    counted = count_backbone_bytes(options, shape=(3, 8, 8), num_outputs=10)
    assert torch.equal(torch.get_rng_state(), before)
    network = build_backbone(options, shape=(3, 8, 8), num_outputs=10)
    assert counted == sum(tensor.nbytes for tensor in network.state_dict().values())
    # The paper's net for photos: 90.6 GB a matrix, of which each block has two.
    photos = count_backbone_bytes(BackboneConfig(num_blocks=1), shape=(3, 224, 224), num_outputs=2)
    assert photos == pytest.approx(2 * 90.6e9, rel=1e-3)
