"""The deployment's files are written whole, and nothing of the user's is overwritten."""

from pathlib import Path

import pytest

import otad_ray
from otad_ray.errors import InputError
from otad_ray.jobs.write_deployment import find_deployment_files, main, write_deployment

REPOSITORY = Path(__file__).parents[2]


def test_files_of_the_deployment_are_those_of_the_repository(tmp_path: Path) -> None:
    written = {path.relative_to(tmp_path) for path in write_deployment(tmp_path)}
    assert {Path("dashboards/otad.json"), Path("dashboards/alerts.yml"), Path("deploy/nightly.sh")} <= written
    assert written == {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    for name in written:
        assert (tmp_path / name).read_bytes() == (REPOSITORY / name).read_bytes()
    assert not {name for name in written if name.suffix == ".py" or name.name == "cluster.env"}


def test_file_that_differs_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "deploy" / "nightly.sh"
    mine.parent.mkdir()
    mine.write_text("mine\n")
    assert main([str(tmp_path)], prog="otad write-deployment") == 2
    assert f"error: {mine} exists and differs" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    mine.unlink()
    assert main([str(tmp_path)], prog="otad write-deployment") == 0
    # Again, with what is there already.
    assert main([str(tmp_path)], prog="otad write-deployment") == 0


def test_package_without_the_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "otad_ray").mkdir()
    monkeypatch.setattr(otad_ray, "__file__", str(tmp_path / "otad_ray" / "__init__.py"))
    with pytest.raises(InputError, match="came without the deployment's files"):
        find_deployment_files()
