"""The machine that results are computed on."""

import os
from pathlib import Path

import pytest

from otad_ray import machine
from otad_ray.errors import InputError
from otad_ray.machine import (
    available_memory,
    describe_command,
    describe_machine,
    format_bytes,
    job_command,
    num_cores,
    require_memory,
)


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


def test_memory_is_known_and_what_exceeds_it_is_refused_with_the_way_out() -> None:
    available = available_memory()
    assert available is not None
    assert available > 0
    require_memory(1000, what="a few rows", advice="take fewer")
    with pytest.raises(InputError, match=r"all rows need 9000000\.0 TB, .* are available; take fewer"):
        require_memory(9e18, what="all rows", advice="take fewer")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("60000\n")
    assert available_memory() != 40_000
    (tmp_path / "memory.max").write_text("90000\n")
    (tmp_path / "memory.stat").write_text("anon 20\ninactive_file 10000\n")
    assert available_memory() == 40_000


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (90_635_919_364, "90.6 GB"), (2.7e12, "2.7 TB")]
)
def test_bytes_are_written_as_people_read_them(count: float, text: str) -> None:
    assert format_bytes(count) == text


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


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["jobs/attack_sweep.py", "digits", "--eps", "1", "2"], "python jobs/attack_sweep.py digits --eps 1 2"),
        (["/usr/bin/otad", "report", "--storage", "/home/me", "--seed", "1"], "otad report --seed 1"),
        (["otad", "x", "--tracking_uri=https://me:secret@host", "--local"], "otad x --local"),
        (["otad", "x", "--address", "ray://me:secret@host", "--defense", "a b"], "otad x --defense 'a b'"),
        (["otad", "x", "--data-set", "https://me:secret@host/x"], "otad x --data-set 'https://***@host/x'"),
    ],
)
def test_command_is_described_without_places_and_credentials(arguments: list[str], shown: str) -> None:
    assert describe_command(arguments) == shown
