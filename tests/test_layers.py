"""What must work on a machine with PyTorch alone."""

import json
import subprocess
import sys

import pytest

# The packages left of tracking, used end to end with every optional dependency missing.
SCRIPT = """
import json, sys, tempfile
import torch
allowed = set(sys.modules) | {"otad_ray"}
import otad_ray.cip
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - allowed})))
for name in ("ray", "mlflow", "faiss", "cvxpy", "mosek", "ot"):
    sys.modules[name] = None
import otad_ray.benchmarks, otad_ray.evaluation, otad_ray.monitoring.files, otad_ray.presets
from otad_ray.cip import Regularity, integrate
from otad_ray.data import Batch, data_set, load_all, open_split
from otad_ray.defenses import OTAD, load_defense
from otad_ray.memory import NeighborMemory
from otad_ray.models import BackboneConfig, build_backbone
from otad_ray.training import TrainingConfig, train_backbone

train = Batch(*(values[:300] for values in load_all(open_split(data_set("digits"), "train"))))
net = build_backbone(BackboneConfig(num_blocks=1), shape=(64,), num_outputs=10)
train_backbone(net, train.x, train.y, TrainingConfig(epochs=1))
points = train.x.flatten(1)
with torch.no_grad(), tempfile.TemporaryDirectory() as root:
    NeighborMemory.build(
        root + "/memory", None, [points], [net.features(points)], [train.y], [train.ids],
        provenance={"backbone": net.fingerprint()},
    )
    OTAD(net, NeighborMemory.load(root + "/memory")).save(root + "/defense")
    assert load_defense(root + "/defense")(train.x[:5]).shape == (5, 10)

# OTAD-T-NN: a transformer, a metric net, labels, CIP-net.
import numpy as np
from otad_ray.certification import certified_radius
from otad_ray.defenses import OTADNN
from otad_ray.memory import IntegrationConfig, label_positions, label_rows, label_weights
from otad_ray.models import CipNetConfig, MetricNetConfig, ViTConfig, build_cip_net, build_metric_net
from otad_ray.training import CipNetTrainingConfig, MetricTrainingConfig, SolvedRows, train_cip_net, train_metric_net

options = BackboneConfig(architecture="vit", num_blocks=1, vit=ViTConfig(patch_size=4, width=8, num_heads=2))
vit = build_backbone(options, shape=(1, 8, 8), num_outputs=10)
train_backbone(vit, train.x, train.y, TrainingConfig(epochs=1, optimizer="adamw", precision="bfloat16"))
metric = build_metric_net(MetricNetConfig(architecture="orthogonal", width=8, num_keys=8), shape=(1, 8, 8))
train_metric_net(metric, train.x, train.y, MetricTrainingConfig(epochs=1))
integration = IntegrationConfig(num_neighbors=5)
with tempfile.TemporaryDirectory() as root:
    with torch.no_grad():
        points, keys = vit.coordinates(train.x), metric(train.x)
        features = vit.features(vit.points_of(points))
    memory = NeighborMemory.build(
        root + "/memory", [keys], [points], [features], [train.y], [train.ids], point_space=vit.point_space
    )
    labels = label_rows(memory, np.arange(200), integration)
    solved = SolvedRows(*label_positions(memory, labels, 5), label_weights(labels, 5))
    cip_net = build_cip_net(
        CipNetConfig(width=8, num_blocks=1, num_heads=2),
        num_neighbors=5, coordinates=points.shape[1], dimension=vit.dimension,
    )
    train_cip_net(cip_net, memory, solved, integration, CipNetTrainingConfig(epochs=1))
    OTADNN(vit, memory, cip_net, integration, metric).save(root + "/defense")
    defense = load_defense(root + "/defense")
    assert defense(train.x[:5]).shape == (5, 10)
    assert certified_radius(defense, train.x[:5]).radius.shape == (5,)
"""


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """What one process said for all tests here: the import of PyTorch takes seconds."""
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)


def test_everything_left_of_tracking_runs_without_ray_mlflow_and_faiss(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def test_cip_imports_torch_alone(done: subprocess.CompletedProcess[str]) -> None:
    new = set(json.loads(done.stdout.splitlines()[0]))
    assert not new & {"cvxpy", "mosek", "scipy", "pyarrow", "sklearn", "ray", "mlflow", "faiss"}, new
