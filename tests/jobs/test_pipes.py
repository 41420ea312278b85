"""Programs whose output nobody reads any more."""

import os
import subprocess
import sys

import pytest

from otad_ray.jobs.pipes import stop_when_unread

OTAD = [sys.executable, "-m", "otad_ray.jobs"]


def run_unread(command: list[str], *, both: bool = False) -> tuple[int, bytes]:
    """Run a program whose stdout, or stdout and stderr, is a pipe that nobody reads; its exit code and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=writer, stderr=writer if both else subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    return done.returncode, done.stderr or b""


@pytest.mark.parametrize("arguments", [["--help"], ["defenses"], ["describe", "--help"]])
def test_program_ends_quietly_when_nobody_reads(arguments: list[str]) -> None:
    code, err = run_unread([*OTAD, *arguments])
    assert (code, err) == (141, b"")


def test_program_whose_messages_go_the_same_way_ends_with_the_same_code() -> None:
    assert run_unread([*OTAD, "describe", "--data-set", "digits"], both=True)[0] == 141


def test_other_broken_connections_stay_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError, match="the server"), stop_when_unread():
        raise BrokenPipeError("the server has gone")


def test_exit_code_of_the_block_is_kept() -> None:
    with pytest.raises(SystemExit) as end, stop_when_unread():
        raise SystemExit(2)
    assert end.value.code == 2
