"""Write what operates the jobs into a folder: Grafana's dashboard, alert rules, the schedule, and Kubernetes manifests.

otad write-deployment ~/otad
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import otad_ray
from otad_ray.errors import InputError

_BAD_INPUT = 2
# Where a wheel keeps them, below the package (see pyproject.toml).
_IN_WHEEL = "deployment"
_FOLDERS = ("dashboards", "deploy")
# A checkout also has text about these files, and settings with credentials that the user has filled in.
_LEFT_OUT = ("README.md", "cluster.env")


def main(arguments: Sequence[str], *, prog: str) -> int:
    """Write the files as the command line says, print their paths, and return the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="gets the folders dashboards and deploy; made if it is missing")
    folder = parser.parse_args(arguments).folder
    try:
        print(*write_deployment(folder), sep="\n")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return _BAD_INPUT
    return 0


def write_deployment(folder: Path) -> list[Path]:
    """Copy the deployment's files into a folder and return their paths there.

    Raises:
        InputError: before anything is written, if a file is there with other content, or if this package came
            without the files; and if the folder cannot be written.
    """
    files = find_deployment_files()
    for name, source in files.items():
        target = folder / name
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise InputError(f"{target} exists and differs from this version's; move it away, or give another folder")
    try:
        for name, source in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another folder") from error
    return [folder / name for name in files]


def find_deployment_files() -> Mapping[Path, Path]:
    """Return the deployment's files by their place in the repository, from a wheel's package or a checkout.

    Raises:
        InputError: if this package came without them.
    """
    package = Path(otad_ray.__file__).resolve().parent
    for root in (package / _IN_WHEEL, package.parent):
        if all((root / name).is_dir() for name in _FOLDERS):
            found = sorted(path for name in _FOLDERS for path in (root / name).rglob("*") if path.is_file())
            return {path.relative_to(root): path for path in found if _belongs(path)}
    raise InputError(
        f"{package} came without the deployment's files; install otad_ray from a wheel, or take them from a checkout"
    )


def _belongs(path: Path) -> bool:
    return path.name not in _LEFT_OUT and path.suffix not in (".py", ".pyc")
