"""The shape of the code: how long files are, how many lie in a folder, and where the tests of a module are."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "otad_ray"
TESTS = REPOSITORY / "tests"
MAX_LINES = 300
MAX_FILES = 15
# It has one module for each command.
COMMANDS = PACKAGE / "jobs"
# Folders of tests that mirror no package.
OTHER_FOLDERS = {"chaos", "deploy", "docs", "helpers"}
# Tests of several modules together, by what they have in common.
CROSS_MODULE_TESTS = {
    "certification/test_metric_certificates.py",
    "certification/test_protocol.py",
    "certification/test_transformer_certificates.py",
    "cip/test_interruptions.py",
    "data/own/test_properties.py",
    "data/test_real_data.py",
    "defenses/test_users_autoattack.py",
    "memory/test_point_space.py",
    "memory/test_streaming.py",
    "monitoring/test_check_panels.py",
    "monitoring/test_expressions.py",
    "jobs/test_evaluate_transformers.py",
    "tracking/test_servers.py",
}


def find_folders(root: Path) -> list[Path]:
    """Return all folders with Python files, the root among them."""
    return sorted({path.parent for path in root.rglob("*.py")})


@pytest.mark.parametrize("root", [PACKAGE, TESTS], ids=lambda root: root.name)
def test_files_are_short(root: Path) -> None:
    lines = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("root", [PACKAGE, TESTS], ids=lambda root: root.name)
def test_folders_hold_few_files(root: Path) -> None:
    counts = {
        str(folder.relative_to(REPOSITORY)): len(list(folder.glob("*.py")))
        for folder in find_folders(root)
        if folder != COMMANDS
    }
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_tests_lie_beside_the_path_of_their_module() -> None:
    """A test file of a package is named after a module or a folder below that package."""
    strangers = []
    for path in TESTS.glob("*/**/test_*.py"):
        place = path.relative_to(TESTS)
        if place.parts[0] in OTHER_FOLDERS or str(place) in CROSS_MODULE_TESTS:
            continue
        package = PACKAGE / place.parent
        name = path.stem.removeprefix("test_")
        modules = {found.stem for found in package.rglob("*") if found.suffix == ".py" or found.is_dir()}
        if name not in modules - {"__init__"}:
            strangers.append(str(place))
    assert strangers == [], "name it after the module that it tests, or put it into CROSS_MODULE_TESTS"
