"""What every job does on the command line: parse, run, print one JSON line; errors without a traceback."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import tyro

from otad_ray.cip import SolverUnavailableError
from otad_ray.errors import InputError, RetryableError
from otad_ray.jobs.pipes import stop_when_unread
from otad_ray.jobs.table import DEFAULT_PRESET, JOBS
from otad_ray.options import JobConfig
from otad_ray.presets import PRESETS, find_preset

# They announce at INFO what no user of a job asks for, such as that fonts were listed.
_NOISY = ("alembic", "faiss", "httpx", "matplotlib", "mlflow", "ray")
# Exit status of a job that was stopped from outside: the same command goes on.
_RETRYABLE = 1

Config = TypeVar("Config", bound=JobConfig)
Options = TypeVar("Options")


@stop_when_unread()
def run_job(name: str, arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Run a job of the table from the command line.

    Args:
        name: of the job, such as "label_qcp".
        arguments: its command line; None for that of this process.
        prog: how messages call the program; None for its path.

    Raises:
        SystemExit: with 0 after --help, and 141 if nobody reads the output any more; otherwise as `main` or, for a job
            with a finding, `check_main` says.
    """
    job = JOBS[name]
    module = import_module(job.module)
    config, run, description = getattr(module, job.config), getattr(module, job.run), module.__doc__ or ""
    if job.finding is not None:
        finding = job.finding
        check_main(
            config,
            run,
            description=description,
            failed=lambda result: bool(result[finding]),
            arguments=arguments,
            prog=prog,
        )
    elif job.default_preset is None:
        options_main(config, run, description=description, arguments=arguments, prog=prog)
    else:
        main(
            config,
            run,
            description=description,
            default_preset=job.default_preset,
            subject=job.subject,
            arguments=arguments,
            prog=prog,
        )


def parse(
    config: type[Config],
    arguments: Sequence[str],
    *,
    description: str,
    default_preset: str = DEFAULT_PRESET,
    subject: str | None = None,
    prog: str | None = None,
) -> Config:
    """Return the configuration of a command line `[PRESET] [--field value ...]`: a preset with fields replaced.

    Args:
        config: class of the configuration.
        arguments: the command line, without the program.
        description: of the job; its first line is shown.
        default_preset: preset of a command line that names none.
        subject: field that the first word says, before the preset; None for a configuration without one.
        prog: how messages call the program; None for its path.

    Raises:
        InputError: for an unknown preset, a missing subject, and for values that the configuration refuses.
        SystemExit: for options that do not exist, and after --help.
    """
    arguments = list(arguments)
    asks_for_help = any(item in ("-h", "--help") for item in arguments)
    given: dict[str, Any] = {}
    if subject is not None and not asks_for_help:
        if not arguments or arguments[0].startswith("-"):
            raise InputError(f"name the {subject} first, such as: {prog or sys.argv[0]} {subject.upper()} PRESET")
        given[subject] = arguments.pop(0)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else default_preset
    preset = find_preset(name)
    summary = description.partition("\n")[0]
    return tyro.cli(
        config,
        args=arguments,
        default=config(preset=preset, **given),
        prog=f"{prog or sys.argv[0]} {subject.upper() + ' ' if subject else ''}[{'|'.join(PRESETS)}]",
        description=f"{summary} Defaults below are those of preset {name!r}.",
    )


def main(
    config: type[Config],
    run: Callable[[Config], dict[str, Any]],
    *,
    description: str,
    default_preset: str = DEFAULT_PRESET,
    subject: str | None = None,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Run a job of one preset from the command line.

    Raises:
        SystemExit: with 2 for bad input, 1 for what a rerun may mend (a full disk and the like), 130 if interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    _run(
        lambda: parse(
            config, given, description=description, default_preset=default_preset, subject=subject, prog=prog
        ),
        run,
    )


def check_main(
    config: type[Options],
    run: Callable[[Options], dict[str, Any]],
    *,
    description: str,
    failed: Callable[[dict[str, Any]], bool],
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Run a job that checks something from the command line.

    Raises:
        SystemExit: with 2 for a result that `failed`, 1 for bad input and for what a rerun may mend, 130 if
            interrupted.
    """
    summary = description.partition("\n")[0]
    result = _run(lambda: tyro.cli(config, args=arguments, prog=prog, description=summary), run, bad_input=1)
    if failed(result):
        raise SystemExit(2)


def options_main(
    config: type[Options],
    run: Callable[[Options], dict[str, Any]],
    *,
    description: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Run a job whose options name no preset from the command line; it exits as `main` does."""
    summary = description.partition("\n")[0]
    _run(lambda: tyro.cli(config, args=arguments, prog=prog, description=summary), run)


def _run(parse_options: Callable[[], Options], run: Callable[[Options], dict[str, Any]], bad_input: int = 2) -> Any:
    """Run a job with logs on stderr, and print its summary as one JSON object, the last line of stdout."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        parsed = parse_options()
    except ValueError as error:
        # Configurations refuse bad values of their own.
        _stop(error, bad_input)
    except SystemExit as end:
        # Options that do not exist, or --help.
        raise SystemExit(bad_input if end.code else 0) from None
    try:
        result = run(parsed)
    except (InputError, SolverUnavailableError) as error:
        _stop(error, bad_input)
    except RetryableError as error:
        _stop(error, _RETRYABLE)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept: the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    print(json.dumps(result), flush=True)
    return result


def _stop(error: Exception, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code) from None
