"""Table IX on a tiny transformer: everything is compared on the same images, and the solvers agree."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from otad_ray.benchmarks import TransformerConfig, Transformers, measure_transformer
from otad_ray.cip import Regularity
from otad_ray.data import Batch
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import BackboneConfig, CipNetConfig, MetricNetConfig, ViTConfig

SHAPE = (1, 8, 8)
OPTIONS = TransformerConfig(
    backbone=BackboneConfig(architecture="vit", num_blocks=1, vit=ViTConfig(patch_size=4, width=32, num_heads=2)),
    metric=MetricNetConfig(architecture="resnet", width=8, num_keys=8),
    cip_net=CipNetConfig(width=16, num_blocks=1, num_heads=2),
    integration=IntegrationConfig(
        num_neighbors=5, regularity=Regularity(relax_smoothness=1.0, relax_strong_convexity=1.0), solver="clarabel"
    ),
)
NAMES = ["otad_t_feature_net_cpu", "otad_t_simplex_net_cpu", "otad_t_clarabel_cpu"]


def images(count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.arange(count), torch.rand(count, *SHAPE, generator=generator), torch.arange(count) % 3)


@pytest.mark.parametrize("metric", [OPTIONS.metric, None], ids=["metric", "points"])
def test_all_are_timed_on_the_same_images_and_agree(tmp_path: Path, metric: MetricNetConfig | None) -> None:
    networks = Transformers(replace(OPTIONS, metric=metric), shape=SHAPE, num_outputs=3)
    networks.remember(tmp_path / "memory", images(60))
    memory = NeighborMemory.load(tmp_path / "memory")
    measurements = measure_transformer(networks, memory, images(70).x[60:])
    assert [item.name for item in measurements] == NAMES
    for item in measurements:
        assert item.unit == "s/sample"
        assert item.ours == measurements[0].ours > 0
        assert item.ratio == pytest.approx(item.reference / item.ours)
        assert "a batch of 10, K = 5 of 60 rows, D = 128" in item.note
    assert [item.goal for item in measurements] == [1.0, None, None]
    values, features = (
        float(part.partition(" agree to ")[2] or part.partition(" to ")[2])
        for part in measurements[-1].note.rpartition("; ")[2].split(", ")
    )
    assert values < 1e-5
    assert features < 1e-2


def test_features_are_not_the_points() -> None:
    networks = Transformers(OPTIONS, shape=SHAPE, num_outputs=3)
    points = networks.backbone.embed(images(4).x)
    assert (networks.backbone.features(points) - points).norm() > 0.1 * points.norm()


def test_networks_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (Transformers(OPTIONS, shape=SHAPE, num_outputs=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.backbone.fingerprint() == second.backbone.fingerprint()
