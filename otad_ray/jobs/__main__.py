"""The command `otad`, which is also `python -m otad_ray.jobs`: its first argument names a job."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from otad_ray import __version__
from otad_ray.errors import InputError
from otad_ray.jobs.pipes import stop_when_unread
from otad_ray.jobs.table import COMMANDS, JOBS, find_name, read_description

PROGRAM = "otad"
_BAD_INPUT = 2


@stop_when_unread()
def main() -> None:
    """Run the job or command that the command line names, or print the list of them."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(describe_commands())
    elif arguments[0] == "--version":
        print(f"otad_ray {__version__}")
    elif arguments[0].replace("_", "-").startswith("--tyro-"):
        _complete(arguments)
    else:
        _run(arguments[0], arguments[1:])


def describe_commands() -> str:
    """Return the help of `otad`: its jobs and commands with the first line of each one's description."""
    lines = [f"usage: {PROGRAM} JOB [PRESET] [--option value ...]", "", "jobs:"]
    lines += [_describe(name, job.module) for name, job in JOBS.items()]
    lines += ["", "commands:"]
    lines += [_describe(name, module) for name, module in COMMANDS.items()]
    lines += [
        "",
        f"{PROGRAM} JOB --help        the options of a job",
        f"{PROGRAM} --version         the version of otad_ray",
        f"{PROGRAM} --tyro-write-completion {{bash,zsh,tcsh,fish}} FILE        tab completion, for a shell to load",
    ]
    return "\n".join(lines)


def _describe(name: str, module: str) -> str:
    return f"  {name.replace('_', '-'):<18}{read_description(module).partition(chr(10))[0]}"


def _complete(arguments: Sequence[str]) -> None:
    from otad_ray.jobs.completion import write_completion

    try:
        write_completion(arguments, prog=PROGRAM)
    except InputError as error:
        _stop(error)


def _run(given: str, arguments: Sequence[str]) -> None:
    name = find_name(given)
    if name is None:
        known = ", ".join(name.replace("_", "-") for name in (*JOBS, *COMMANDS))
        _stop(f"unknown job {given!r}; known: {known}")
    prog = f"{PROGRAM} {name.replace('_', '-')}"
    if name in COMMANDS:
        raise SystemExit(import_module(COMMANDS[name]).main(arguments, prog=prog))
    from otad_ray.jobs.cli import run_job

    run_job(name, arguments, prog=prog)


def _stop(error: object) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(_BAD_INPUT)


if __name__ == "__main__":
    main()
