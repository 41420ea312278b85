"""Databases that were moved with their artifacts: runs are written to, and found at, the new place."""

import shutil
from pathlib import Path

import mlflow
import pytest

from otad_ray.tracking import RunRecord, default_tracking_uri, track

RECORD = RunRecord(experiment="digits", kind="labels", result={"directory": "a"}, params={}, metrics={"rows": 1})


def log(root: Path, name: str) -> str:
    """Log a run with an artifact, and return its id."""
    artifact = root / f"{name}.json"
    artifact.write_text(name)
    record = RunRecord(**{**vars(RECORD), "result": {"directory": name}, "artifacts": (artifact,)})
    run_id = track(record, tracking_uri=default_tracking_uri(None, root), root=root)
    assert run_id is not None
    return run_id


def read(root: Path, run_id: str) -> list[str]:
    """Return where the artifacts of a run are, as the database says."""
    client = mlflow.MlflowClient(tracking_uri=default_tracking_uri(None, root))
    folder = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return [str(path) for path in folder.iterdir()]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root with one run, and the run's id: a new database takes seconds."""
    root = tmp_path_factory.mktemp("roots") / "old"
    root.mkdir()
    return root, log(root, "first")


def test_a_moved_root_writes_nothing_to_the_old_place(template: tuple[Path, str], tmp_path: Path) -> None:
    root, first = template
    before, moved = tmp_path / "before", tmp_path / "moved"
    shutil.copytree(root, before)
    log(before, "second")
    before.rename(moved)
    third = log(moved, "third")
    assert not before.exists()
    assert read(moved, third) == [str(moved / "mlartifacts" / third / "artifacts" / "third.json")]
    assert read(moved, first) == [str(moved / "mlartifacts" / first / "artifacts" / "first.json")]


def test_a_copied_root_leaves_the_first_one_alone(template: tuple[Path, str], tmp_path: Path) -> None:
    root, first = template
    shutil.copytree(root, tmp_path / "copy")
    before = sorted(root.rglob("*"))
    run_id = log(tmp_path / "copy", "second")
    assert sorted(root.rglob("*")) == before
    assert read(tmp_path / "copy", run_id)[0].startswith(str(tmp_path / "copy"))
    assert read(root, first)[0].startswith(str(root))


def test_a_root_by_another_name_and_a_database_without_its_artifacts_stay(
    template: tuple[Path, str], tmp_path: Path
) -> None:
    root, first = template
    (tmp_path / "link").symlink_to(root)
    log(tmp_path / "link", "second")
    assert read(tmp_path / "link", first)[0].startswith(str(root))
    (tmp_path / "alone").mkdir()
    shutil.copy(root / "mlflow.db", tmp_path / "alone")
    assert read(tmp_path / "alone", log(tmp_path / "alone", "third"))[0].startswith(str(root))
