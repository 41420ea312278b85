"""The shape of the code: how long files are, how many lie in a folder, and where the tests of a module are."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "otad_ray"
TESTS = REPOSITORY / "tests"
MAX_LINES = 300
MAX_FILES = 15
# It has one module for each command.
COMMANDS = PACKAGE / "jobs"
# Folders of tests that mirror no package.
OTHER_FOLDERS = {"chaos", "deploy", "docs", "helpers", "packaging"}
# Tests of several modules together, by what they have in common.
CROSS_MODULE_TESTS = {
    "certification/test_certified_radius.py",
    "certification/test_metric_certificates.py",
    "certification/test_protocol.py",
    "certification/test_transformer_certificates.py",
    "cip/test_interruptions.py",
    "data/own/test_properties.py",
    "data/test_real_data.py",
    "defenses/test_defenses.py",
    "defenses/test_users_autoattack.py",
    "memory/test_point_space.py",
    "memory/test_streaming.py",
    "monitoring/test_check_panels.py",
    "monitoring/test_expressions.py",
    "recipes/baselines/test_certified_baselines.py",
    "jobs/test_evaluate_transformers.py",
    "tracking/test_servers.py",
}


def test_modules_are_short() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_folders_hold_few_modules() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {COMMANDS}
    counts = {str(folder.relative_to(PACKAGE)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_test_files_lie_at_the_path_of_their_module() -> None:
    """A test file of a package is named after a module, or a folder, below that package."""
    strangers = []
    for path in TESTS.glob("*/**/test_*.py"):
        place = path.relative_to(TESTS)
        if place.parts[0] in OTHER_FOLDERS or str(place) in CROSS_MODULE_TESTS:
            continue
        package = PACKAGE / place.parent
        name = path.stem.removeprefix("test_").strip("_")
        modules = {found.stem.strip("_") for found in package.rglob("*") if found.suffix == ".py" or found.is_dir()}
        if name not in modules - {"init"}:
            strangers.append(str(place))
    assert strangers == [], "name it after the module that it tests, or put it into CROSS_MODULE_TESTS"
