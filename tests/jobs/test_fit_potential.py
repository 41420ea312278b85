"""The job of the potentials: what it writes, resumes and tracks, and the defense that is made of it."""

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from helpers.digits_jobs import ON_RAY, ROWS, quick_preset
from otad_ray.defenses import OTADGlobal, load_defense
from otad_ray.errors import InputError
from otad_ray.jobs.fit_potential import PotentialJobConfig, run_potential_job
from otad_ray.options import JobConfig
from otad_ray.presets import Preset
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace


def config(storage: Path, **fields) -> PotentialJobConfig:
    return PotentialJobConfig(**{"preset": quick_preset(), "storage": str(storage), "local": True, **fields})


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def result(storage: Path) -> dict:
    return run_potential_job(config(storage))


def test_fits_every_row_and_tracks_it(result: dict, storage: Path) -> None:
    assert result["rows"] == result["rows_computed"] == ROWS
    potentials = np.load(Path(result["potential"]) / "potentials.npy")
    assert potentials.shape == (ROWS,)
    assert np.isfinite(potentials).all()
    # Residuals are small against the potentials that they are of.
    assert 0 < result["near_residual"] < result["far_residual"] < 0.5 * potentials.std()
    run = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(result["run_id"])
    assert run.data.metrics["near_residual"] == pytest.approx(result["near_residual"])


def test_a_rerun_computes_what_is_missing(result: dict, storage: Path) -> None:
    assert run_potential_job(config(storage)) == {**result, "rows_computed": 0}
    directory = Path(result["potential"])
    before = np.load(directory / "potentials.npy")
    (directory / "shard-00001.parquet").unlink()
    again = run_potential_job(config(storage))
    assert 0 < again["rows_computed"] < ROWS
    np.testing.assert_allclose(np.load(directory / "potentials.npy"), before)


@pytest.mark.slow
def test_actors_on_ray_find_the_same(result: dict, storage: Path, tmp_path: Path, cluster: None) -> None:
    (tmp_path / "digits").mkdir()
    for folder in ("backbone", "memory"):
        (tmp_path / "digits" / folder).symlink_to(storage / "digits" / folder)
    again = run_potential_job(config(tmp_path, **ON_RAY))
    np.testing.assert_allclose(
        np.load(Path(again["potential"]) / "potentials.npy"), np.load(Path(result["potential"]) / "potentials.npy")
    )


def test_the_defense_is_made_of_it(result: dict, storage: Path) -> None:
    workspace = Workspace(JobConfig(preset=quick_preset(), storage=str(storage), build=False))
    (source,) = find_defenses(workspace, ["otad_global"]).values()
    assert isinstance(load_defense(source.location), OTADGlobal)
    preset = quick_preset()
    missing = replace(preset, potential=replace(preset.potential, seed=1))
    workspace = Workspace(JobConfig(preset=missing, storage=str(storage), build=False))
    with pytest.raises(InputError, match=r"no potentials for preset 'digits'.*fit_potential"):
        find_defenses(workspace, ["otad_global"])


def test_offsets_are_trained_once_and_used(result: dict, storage: Path) -> None:
    assert result["offsets"] is None
    preset = quick_preset()
    preset = replace(preset, offset_training=replace(preset.offset_training, rows=256, batch_size=128))
    trained = run_potential_job(config(storage, preset=preset))
    assert trained["rows_computed"] == 0
    directory = Path(trained["offsets"])
    offsets = np.load(directory / "offsets.npy")
    before = (directory / "offsets.npy").stat().st_mtime_ns
    assert run_potential_job(config(storage, preset=preset)) == trained
    assert (directory / "offsets.npy").stat().st_mtime_ns == before
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["run_id"] is not None
    # Offsets that were trained before potentials could be compressed keep their identity.
    assert "pieces" not in manifest["potential"]
    workspace = Workspace(JobConfig(preset=preset, storage=str(storage), build=False))
    (source,) = find_defenses(workspace, ["otad_global"]).values()
    defense = load_defense(source.location)
    assert isinstance(defense, OTADGlobal)
    np.testing.assert_array_equal(defense.pieces.offsets.numpy(), offsets)
    (plain,) = find_defenses(
        Workspace(JobConfig(preset=quick_preset(), storage=str(storage))), ["otad_global"]
    ).values()
    assert plain.fingerprint != source.fingerprint


def compressed(pieces: int, **fields) -> Preset:
    preset = quick_preset()
    return replace(preset, potential=replace(preset.potential, pieces=pieces, **fields))


def test_compressed_potentials_are_clustered_once(result: dict, storage: Path) -> None:
    assert result["clusters"] is None
    made = run_potential_job(config(storage, preset=compressed(40)))
    assert (made["rows_computed"], made["potential"]) == (0, result["potential"])
    file = Path(made["clusters"]) / "clusters.npy"
    before = file.stat().st_mtime_ns
    # Smoothness and share change pieces, not clusters.
    assert run_potential_job(config(storage, preset=compressed(40, smoothness=3.0, share=0.5))) == made
    assert file.stat().st_mtime_ns == before
    workspaces = [Workspace(JobConfig(preset=compressed(count), storage=str(storage))) for count in (40, 41)]
    sources = [find_defenses(workspace, ["otad_global"])["otad_global"] for workspace in workspaces]
    assert len({source.fingerprint for source in sources}) == 2
    defense = load_defense(sources[0].location)
    assert isinstance(defense, OTADGlobal)
    assert len(defense.pieces) == 40
    missing = Workspace(JobConfig(preset=compressed(42), storage=str(storage), build=False))
    with pytest.raises(InputError, match=r"no clusters for preset 'digits'.*fit_potential"):
        find_defenses(missing, ["otad_global"])


def test_refuses_pieces_that_cannot_be(result: dict, storage: Path) -> None:
    for count in (9, ROWS + 1):
        with pytest.raises(InputError, match=rf"potential\.pieces is {count};.*{ROWS} points in 10 class"):
            run_potential_job(config(storage, preset=compressed(count)))
    preset = compressed(40)
    preset = replace(preset, offset_training=replace(preset.offset_training, rows=64))
    with pytest.raises(InputError, match=r"leave out --offset-training\.rows, or --potential\.pieces"):
        run_potential_job(config(storage, preset=preset))
