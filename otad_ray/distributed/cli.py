"""What every job script does: parse, run, print one JSON line; errors a person can act on without a traceback."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from otad_ray.cip import SolverUnavailableError
from otad_ray.distributed.options import JobConfig
from otad_ray.errors import InputError
from otad_ray.presets import PRESETS, find_preset

_DEFAULT_PRESET = "digits"

Config = TypeVar("Config", bound=JobConfig)


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
    """Run a job from the command line: logs on stderr, and one JSON object as the last line of stdout."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("alembic", "faiss", "mlflow", "ray", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        parsed = parse(config, sys.argv[1:], description=description, default_preset=default_preset)
    except ValueError as error:
        # Configurations refuse bad values of their own.
        _stop(error)
    try:
        result = run(parsed)
    except (InputError, SolverUnavailableError) as error:
        _stop(error)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept: the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    print(json.dumps(result), flush=True)


def _stop(error: Exception) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
