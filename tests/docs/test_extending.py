"""docs/extending.md: applied to a copy of the package as it says, its tests pass and its jobs run."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from helpers.worked_example import REPOSITORY, apply, commands, run

PAGE = REPOSITORY / "docs" / "extending.md"
_PYTEST = "python -m pytest "


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository with all that the page adds to it."""
    for name in ("otad_ray", "jobs", "tests"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    apply(PAGE, tmp_path)
    for command in commands(PAGE, "sh"):
        if not command.startswith(_PYTEST):
            run(command, tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_tests_of_the_page_pass(copy: Path) -> None:
    asked = [command.removeprefix(_PYTEST) for command in commands(PAGE, "sh") if command.startswith(_PYTEST)]
    targets = [target for arguments in asked for target in shlex.split(arguments)]
    files = [*copy.glob("test_*.py"), *(copy / "tests").rglob("test_*.py")]
    new = {str(path.relative_to(copy)) for path in files}
    new -= {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_*.py")}
    assert new <= set(targets)
    assert len(new) == 5
    run("ruff check otad_ray tests && ruff format --check otad_ray tests *.py", copy)
    # In one process: most of the time goes into imports.
    run(f"{_PYTEST} -q -p no:xdist -p no:cacheprovider {shlex.join(targets)}", copy)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_jobs_of_the_page_run(copy: Path) -> None:
    outputs = [run(command, copy) for command in commands(PAGE, "sh slow")]
    # try_momentum.py prints a table, evaluation.json took what its job printed, and write_nuclei.py says nothing.
    results = [json.loads(output.splitlines()[-1]) for output in outputs if output.endswith("}\n")]
    own, catalog, momentum, squeezed, vote, labels = results
    assert own["rows"] == catalog["rows"] == 114
    assert min(own["accuracy_otad_theory"], catalog["accuracy_otad_theory"]) > 0.9
    assert momentum["brackets"]["net"]["1"]["worst_case"] < 0.3
    assert "masked_gradients" in squeezed["flags"]["squeezed.build"]
    assert squeezed["brackets"]["squeezed.build"]["1"]["worst_case"] < 0.1
    assert 0 < vote["brackets"]["weighted_vote"]["1"]["worst_case"] < 0.5
    assert (labels["rows"], labels["solver"]) == (1437, f"{copy / 'accelerated.py'}:AcceleratedGradient")
    assert set(labels["statuses"]) == {"solved", "relaxed"}
    (table,) = [output for output in outputs if output.startswith("FGSM")]
    assert [line.split()[0] for line in table.splitlines()] == ["FGSM", "Momentum", "PGD"]
