"""The machine that results are computed on."""

import os
from pathlib import Path

import pytest

from otad_ray import machine
from otad_ray.machine import describe_machine, num_cores


def test_the_machine_is_named() -> None:
    described = describe_machine()
    assert set(described) == {"processor", "cores", "memory", "commit"}
    assert int(described["cores"]) >= 1
    assert all(described.values())


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/jobs/mine", {"jobs/mine/cpu.max": "250000 100000"}, 2),
        # A limit above one's own counts too, and a container sees its own group as the topmost one.
        ("0::/jobs/mine", {"jobs/mine/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, 3),
        ("0::/hidden/path", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("1:cpu:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/", {"cpu.max": "1600000 100000"}, 8),
        (None, {}, 8),
    ],
)
def test_cores_are_no_more_than_the_quota_of_a_container(
    membership: str | None, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if membership is not None:
        (tmp_path / "cgroup").write_text(membership + "\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(machine, "_PROCESS", tmp_path)
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert num_cores() == cores
