"""Tab completion for `otad`: every job with its options, described to tyro as one command line."""

from collections.abc import Sequence
from dataclasses import make_dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from otad_ray.errors import InputError
from otad_ray.jobs.table import COMMANDS, JOBS, Job
from otad_ray.presets import find_preset

_SHELLS = ("bash", "zsh", "tcsh", "fish")


def write_completion(arguments: Sequence[str], *, prog: str) -> None:
    """Write a shell's completion script, as one of tyro's options in `arguments` says.

    It completes jobs, options and their choices. Presets are not completed: tyro completes no arguments by position.

    Args:
        arguments: `--tyro-write-completion SHELL FILE` or `--tyro-print-completion SHELL`.
        prog: the program that the script is for.

    Raises:
        InputError: for an unknown shell, and for a file that cannot be written.
        SystemExit: otherwise; with 0 if the script was written.
    """
    if len(arguments) < 2 or arguments[1] not in _SHELLS:
        raise InputError(
            f"need {arguments[0]} and a shell, one of {', '.join(_SHELLS)}, got {' '.join(arguments[1:2])!r}"
        )
    described = [_describe_job(job) for job in JOBS.values()]
    described += [_name_subcommand(name, make_dataclass(name, [])) for name in COMMANDS]
    try:
        tyro.cli(reduce(or_, described), args=list(arguments), prog=prog)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be written ({error.strerror}); give a file in a folder that exists"
        ) from error


def _describe_job(job: Job) -> Any:
    """Return a job as a subcommand with the options of its configuration."""
    config = getattr(import_module(job.module), job.config)
    if job.default_preset is None:
        return _name_subcommand(job.name, config)
    return _name_subcommand(job.name, config, default=config(preset=find_preset(job.default_preset)))


def _name_subcommand(name: str, options: type, **default: Any) -> Any:
    return Annotated[options, subcommand(name=name.replace("_", "-"), **default)]
