"""The two backends: Ray actors and this process write the same shards, and a local job imports no Ray.

Tests that need a cluster are here, also that of a training: another file would start one more.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.digits_jobs import ON_RAY, REPOSITORY, label_config, quick_preset
from otad_ray.errors import InputError
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
from otad_ray.jobs.label_qcp import run_label_job
from otad_ray.jobs.train_backbone import run_backbone_training
from otad_ray.options import JobConfig, TrainJobConfig
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.config import SweepConfig

LOCAL = {"local": True}


def label(root: Path, **fields: Any) -> dict[str, Any]:
    return run_label_job(label_config(root, rows_per_shard=300, **fields))


def evaluate(root: Path, **fields: Any) -> dict[str, Any]:
    return run_evaluation(
        EvaluateConfig(preset=quick_preset(), storage=str(root), rows_per_shard=100, **{**LOCAL, **fields})
    )


def sweep(root: Path, **fields: Any) -> dict[str, Any]:
    attacks = ("noise", "fgsm", "neighbor_aware")
    return run_attack_sweep(
        SweepConfig(
            preset=quick_preset(),
            storage=str(root),
            samples=110,
            attacks=attacks,
            eps=(0.5,),
            **{**LOCAL, **fields},
        )
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    find_defenses(Workspace(JobConfig(preset=quick_preset(), storage=str(root))), ("otad", "net"))
    return root


def read_shards(root: Path) -> dict[str, str]:
    """Return all rows of each shard, as text: NaN is not equal to itself."""
    return {
        str(path.relative_to(root)): str(pq.read_table(path, partitioning=None).to_pylist())
        for path in sorted(root.rglob("shard-*.parquet"))
    }


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("run", [label, evaluate, pytest.param(sweep, marks=pytest.mark.slow)])
def test_actors_and_this_process_write_identical_shards(
    run: Callable[..., dict[str, Any]], trained: Path, tmp_path: Path
) -> None:
    shards = {}
    for name, fields in (("actors", ON_RAY), ("here", LOCAL)):
        root = Path(shutil.copytree(trained, tmp_path / name))
        run(root, **fields)
        shards[name] = read_shards(root)
    assert shards["here"] == shards["actors"]
    assert len(shards["here"]) > 3


@pytest.mark.usefixtures("cluster")
def test_more_training_workers_than_the_cluster_takes_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"num_workers is 3, but the cluster has 2 spare.*--num-workers 2"):
        run_backbone_training(TrainJobConfig(preset=quick_preset(), storage=str(tmp_path), num_workers=3))
    assert not list(tmp_path.iterdir())


NO_RAY = """
import json, sys
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.jobs.cli import parse
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
from otad_ray.jobs.label_qcp import LabelJobConfig, run_label_job
from otad_ray.jobs.train_backbone import run_backbone_training
from otad_ray.options import TrainJobConfig
from otad_ray.sweep.config import SweepConfig

shared = {arguments!r}
few = ["--samples", "20", "--attacks", "noise", "--eps", "0.5", "--defense", "net"]
found = {{}}
for config, run, more in (
    (TrainJobConfig, run_backbone_training, []),
    (LabelJobConfig, run_label_job, []),
    (EvaluateConfig, run_evaluation, []),
    (SweepConfig, run_attack_sweep, few),
):
    run(parse(config, [*shared, *more], description=""))
    found[run.__name__] = sorted(name for name in sys.modules if name == "ray" or name.startswith("ray."))
print(json.dumps(found))
"""


def test_local_jobs_import_no_ray(trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "root")
    arguments = ["digits", "--training.epochs", "3", "--neighbors", "5", "--local", "--storage", str(root)]
    script = NO_RAY.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 4
    assert set(map(tuple, found.values())) == {()}
