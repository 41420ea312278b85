"""AutoAttack as a user writes it, against a loaded defense as a plain module."""

from pathlib import Path

import pytest
import torch
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits

from otad_ray.defenses import KNN, OTAD, MemoryDefense, load_defense
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import BackboneConfig, build_backbone

SAMPLES = 8


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)


@pytest.fixture(scope="module", params=["otad", "knn"])
def defense(request: pytest.FixtureRequest, digits, tmp_path_factory: pytest.TempPathFactory) -> MemoryDefense:
    directory: Path = tmp_path_factory.mktemp("root")
    x, y = digits[0][SAMPLES:], digits[1][SAMPLES:]
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(64,), num_outputs=10).eval()
    # Class means as the head: right on most digits without any training.
    means = torch.stack([x[y == label].flatten(1).mean(0) for label in range(10)])
    with torch.no_grad():
        net.classifier.weight.copy_(2 * means)
        net.classifier.bias.copy_(-means.square().sum(1))
        features = net.features(x.flatten(1))
    memory = NeighborMemory.build(directory / "memory", None, [x.flatten(1)], [features], [y], [torch.arange(len(y))])
    made = {"otad": OTAD(net, memory, IntegrationConfig(num_neighbors=5)), "knn": KNN(net, memory, 5)}[request.param]
    made.save(directory / "defense")
    return load_defense(directory / "defense")


def test_standard_attacks_run_and_break_it(defense: MemoryDefense, digits) -> None:
    x, y = digits[0][:SAMPLES], digits[1][:SAMPLES]
    with torch.no_grad():
        right = defense(x).argmax(1) == y
    assert right.sum() >= 6
    adversary = AutoAttack(defense, norm="L2", eps=1.5, seed=0, version="custom", device="cpu")
    adversary.attacks_to_run = ["apgd-ce", "square"]
    adversary.apgd.n_iter, adversary.square.n_queries = 20, 200
    x_adv, _ = adversary.run_standard_evaluation(x, y, batch_size=SAMPLES)
    assert float((x_adv - x).flatten(1).norm(dim=1).max()) <= 1.5 * (1 + 1e-5)
    with torch.no_grad():
        robust = defense(x_adv).argmax(1) == y
    assert robust.sum() < right.sum()
