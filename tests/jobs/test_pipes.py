"""Programs whose output nobody reads any more."""

import json
import os
import subprocess
import sys

import pytest

from otad_ray.jobs.pipes import stop_when_unread

OTAD = [sys.executable, "-m", "otad_ray.jobs"]
# Each command line in a process of its own, as `otad` would run it: a copy of one that has imported the jobs.
COPIES = """
import json, os, runpy, sys
import otad_ray.jobs.cli, otad_ray.jobs.defenses, otad_ray.jobs.describe, sklearn.datasets, sklearn.model_selection

found = []
for arguments, both in json.loads(sys.argv[1]):
    messages, told = os.pipe()
    child = os.fork()
    if child == 0:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        os.dup2(writer if both else told, 2)
        for number in (writer, told, messages):
            os.close(number)
        sys.argv = ["otad", *arguments]
        runpy.run_module("otad_ray.jobs", run_name="__main__", alter_sys=True)
        sys.exit()
    os.close(told)
    with open(messages) as file:
        err = file.read()
    found.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), err))
print(json.dumps(found))
"""
IMPORTING = (["defenses"], ["describe", "--help"])
TALKING = ["describe", "--data-set", "digits"]


def run_unread(command: list[str]) -> tuple[int, bytes]:
    """Run a program whose stdout is a pipe that nobody reads; its exit code and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def ends() -> dict[str, tuple[int, str]]:
    """The exit code and stderr of commands whose stdout nobody reads, nor, of the last one, stderr."""
    cases = [*((arguments, False) for arguments in IMPORTING), (TALKING, True)]
    command = [sys.executable, "-c", COPIES, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    keys = (" ".join(arguments) for arguments, _ in cases)
    return dict(zip(keys, map(tuple, json.loads(done.stdout)), strict=True))


def test_program_ends_quietly_when_nobody_reads() -> None:
    assert run_unread([*OTAD, "--help"]) == (141, b"")


@pytest.mark.parametrize("arguments", IMPORTING)
def test_command_ends_quietly_when_nobody_reads(arguments: list[str], ends: dict[str, tuple[int, str]]) -> None:
    assert ends[" ".join(arguments)] == (141, "")


def test_program_whose_messages_go_the_same_way_ends_with_the_same_code(ends: dict[str, tuple[int, str]]) -> None:
    assert ends[" ".join(TALKING)][0] == 141


def test_other_broken_connections_stay_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError, match="the server"), stop_when_unread():
        raise BrokenPipeError("the server has gone")


def test_exit_code_of_the_block_is_kept() -> None:
    with pytest.raises(SystemExit) as end, stop_when_unread():
        raise SystemExit(2)
    assert end.value.code == 2
