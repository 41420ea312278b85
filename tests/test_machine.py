"""The machine that results are computed on."""

from pathlib import Path

import pytest

from otad_ray import machine
from otad_ray.machine import describe_machine, job_command


def test_the_machine_is_named() -> None:
    described = describe_machine()
    assert set(described) == {"processor", "cores", "memory", "commit"}
    assert int(described["cores"]) >= 1
    assert all(described.values())


def test_advice_names_a_command_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert job_command("build_memory") == "python jobs/build_memory.py"
    # As in a wheel, which has no scripts.
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "otad_ray" / "machine.py"))
    assert job_command("build_memory") == "otad build-memory"
