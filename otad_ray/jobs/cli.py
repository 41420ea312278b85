"""What every job script does: parse, run, print one JSON line; errors a person can act on without a traceback."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from otad_ray.cip import SolverUnavailableError
from otad_ray.errors import InputError, RetryableError
from otad_ray.options import JobConfig
from otad_ray.presets import PRESETS, find_preset

_DEFAULT_PRESET = "digits"
# Exit status of a job that was stopped from outside: the same command goes on.
_RETRYABLE = 1

Config = TypeVar("Config", bound=JobConfig)
Options = TypeVar("Options")


def parse(
    config: type[Config], arguments: Sequence[str], *, description: str, default_preset: str = _DEFAULT_PRESET
) -> Config:
    """`[PRESET] [--field value ...]`: the preset's values, with fields replaced by options."""
    arguments = list(arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else default_preset
    preset = find_preset(name)
    summary = description.partition("\n")[0]
    return tyro.cli(
        config,
        args=arguments,
        default=config(preset=preset),
        prog=f"{sys.argv[0]} [{'|'.join(PRESETS)}]",
        description=f"{summary} Defaults below are those of preset {name!r}.",
    )


def main(
    config: type[Config],
    run: Callable[[Config], dict[str, Any]],
    *,
    description: str,
    default_preset: str = _DEFAULT_PRESET,
) -> None:
    """Run a job of one preset from the command line; bad input ends it with 2, a full disk and the like with 1."""
    _main(lambda: parse(config, sys.argv[1:], description=description, default_preset=default_preset), run)


def check_main(
    config: type[Options],
    run: Callable[[Options], dict[str, Any]],
    *,
    description: str,
    failed: Callable[[dict[str, Any]], bool],
) -> None:
    """Run a job that checks something: a result that `failed` ends it with 2, bad input with 1."""
    summary = description.partition("\n")[0]
    result = _main(lambda: tyro.cli(config, description=summary), run, bad_input=1)
    if failed(result):
        raise SystemExit(2)


def options_main(config: type[Options], run: Callable[[Options], dict[str, Any]], *, description: str) -> None:
    """Run a command of no preset from the command line; bad input ends it with 2."""
    summary = description.partition("\n")[0]
    _main(lambda: tyro.cli(config, description=summary), run)


def _main(parse_options: Callable[[], Options], run: Callable[[Options], dict[str, Any]], bad_input: int = 2) -> Any:
    """Logs on stderr, and one JSON object as the last line of stdout."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("alembic", "faiss", "mlflow", "ray", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
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
