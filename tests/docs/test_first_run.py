"""docs/first-run.md: its commands run in their order, and its snippets read what the jobs wrote."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.worked_example import REPOSITORY, apply, commands, run

PAGE = REPOSITORY / "docs" / "first-run.md"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_and_snippets_run(tmp_path: Path) -> None:
    for name in ("otad_ray", "jobs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    apply(PAGE, tmp_path)
    outputs = {command: run(command, tmp_path) for command in commands(PAGE, "sh slow")}
    assert len(outputs) == 5
    read = outputs["python read_labels.py"]
    assert read.startswith("1437 labels:")
    assert read.endswith("features (1437, 64)\n")
    used = dict(line.rsplit(" ", 1) for line in outputs["python use_defense.py"].splitlines()[:1])
    assert float(used["accuracy"]) > 0.9
    (sweep,) = [json.loads(output.splitlines()[-1]) for command, output in outputs.items() if "attack_sweep" in command]
    for eps in ("0.5", "1"):
        bracket = sweep["brackets"]["otad"][eps]
        assert bracket["certified"] <= bracket["worst_case"]
