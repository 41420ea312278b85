"""The wheel holds the whole package with what operates it, and works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

import pytest

import otad_ray

REPOSITORY = Path(__file__).parents[2]
_FOLDERS = ("otad_ray", "deploy", "dashboards", "jobs")
_FILES = ("pyproject.toml", "README.md", "LICENSE")
_DEPLOYED = ("dashboards/otad.json", "dashboards/alerts.yml", "deploy/nightly.sh", "deploy/kubernetes/rayjob.yaml")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the repository in which deploy/cluster.env is filled in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in _FOLDERS:
        shutil.copytree(
            REPOSITORY / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "cluster.env")
        )
    for name in _FILES:
        shutil.copy(REPOSITORY / name, folder / "source")
    (folder / "source" / "deploy" / "cluster.env").write_text("MLFLOW_TRACKING_PASSWORD=opensesame\n")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=folder / "source", check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.endswith(".py")}
    assert held == {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "otad_ray").rglob("*.py")}


def test_wheel_holds_the_deployment_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in _DEPLOYED:
            assert archive.read(f"otad_ray/deployment/{name}") == (REPOSITORY / name).read_bytes()


def test_wheel_holds_the_templates_of_pages(wheel: Path) -> None:
    templates = REPOSITORY / "otad_ray" / "pages" / "templates"
    with zipfile.ZipFile(wheel) as archive:
        for path in templates.iterdir():
            assert archive.read(str(path.relative_to(REPOSITORY))) == path.read_bytes()


def test_wheel_leaves_out_settings_with_credentials(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not any(b"opensesame" in archive.read(name) for name in names)
    assert "otad_ray/deployment/deploy/cluster.env.example" in names
    assert not any(name.startswith(("jobs/", "tests/", "dashboards/")) for name in names)


def test_wheel_has_the_command_and_the_version_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        entry_points = ConfigParser()
        entry_points.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    assert dict(entry_points["console_scripts"]) == {"otad": "otad_ray.jobs.__main__:main"}
    assert folder == f"otad_ray-{otad_ray.__version__}.dist-info"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which otad_ray is the wheel, and the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, env=_environment())
    # A folder named by a .pth file comes after the environment's own, and its .pth files, one of which may lead to a
    # checkout, are not read.
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def _environment(**more: str) -> dict[str, str]:
    left_out = ("PYTHONPATH", "PYTHONHOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    return {name: value for name, value in os.environ.items() if name not in left_out} | more


def _run(command: list[str], folder: Path, code: int = 0, **more: str) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=folder, env=_environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_installed_wheel_labels_digits(installed: Path, tmp_path: Path) -> None:
    otad = str(installed / "otad")
    where = _run([str(installed / "python"), "-c", "import otad_ray; print(otad_ray.__file__)"], tmp_path).stdout
    assert Path(where).is_relative_to(installed.parent)
    assert _run([otad, "--version"], tmp_path).stdout == f"otad_ray {otad_ray.__version__}\n"
    labeled = _run([otad, "label-qcp", "digits"], tmp_path, OTAD_STORAGE=str(tmp_path / "storage"))
    summary: Mapping[str, object] = json.loads(labeled.stdout.splitlines()[-1])
    assert (summary["rows"], summary["solver"]) == (1437, "dual")
    assert Path(str(summary["labels"])).is_relative_to(tmp_path)
    assert "fontManager" not in labeled.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_installed_wheel_writes_the_deployment_and_says_what_submitting_needs(installed: Path, tmp_path: Path) -> None:
    otad = str(installed / "otad")
    written = _run([otad, "write-deployment", "mine"], tmp_path).stdout.splitlines()
    assert {f"mine/{name}" for name in _DEPLOYED} <= set(written)
    for name in _DEPLOYED:
        assert (tmp_path / "mine" / name).read_bytes() == (REPOSITORY / name).read_bytes()
    refused = _run([otad, "submit", "label_qcp"], tmp_path, code=1).stderr
    assert "a checkout of its repository" in refused
    assert "--working-dir DIR" in refused
