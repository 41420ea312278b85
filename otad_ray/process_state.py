"""What code that is loaded may change for everybody else in the process, so that it can be put back.

Covered are settings and generators of PyTorch, Python and NumPy, the working directory, the environment, arguments and
import path, standard streams, signal handlers and logging.
"""

import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch


class _Setting(NamedTuple):
    """A part of the state. read returns a value that later changes leave alone; write brings it back."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def read_process_state() -> list[Any]:
    """Return the state of the process, for `restore_process_state`."""
    return [setting.read() for setting in (*_SETTINGS, *_GENERATORS)]


def restore_process_state(state: list[Any]) -> None:
    """Put the process back into a state that `read_process_state` returned.

    Settings that did not change are not touched: setting some of them has side effects of its own.
    """
    num_settings = len(_SETTINGS)
    for setting, value in zip(_SETTINGS, state[:num_settings], strict=True):
        if setting.read() != value:
            setting.write(value)
    for generator, value in zip(_GENERATORS, state[num_settings:], strict=True):
        generator.write(value)


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _set_default_device(device: torch.device) -> None:
    # Without a default device, PyTorch says "cpu"; setting that one would slow every later operation down.
    torch.set_default_device(None if device.type == "cpu" else device)


def _working_directory() -> str | None:
    with suppress(FileNotFoundError):
        return os.getcwd()
    return None


def _set_working_directory(path: str | None) -> None:
    if path is not None:
        os.chdir(path)


def _set_environment(values: dict[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in values.items() if os.environ.get(name) != value})


def _list_setting(name: str) -> _Setting:
    """Return the setting of a list in `sys`: which list it is, and what it holds."""

    def write(value: tuple[list[str], list[str]]) -> None:
        kept, content = value
        kept[:] = content
        setattr(sys, name, kept)

    return _Setting(lambda: (getattr(sys, name), list(getattr(sys, name))), write)


def _signal_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_signal_handlers(handlers: dict[int, Any]) -> None:
    # Python allows it in the main thread alone, and there alone handlers can have been changed.
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in handlers.items():
        # None stands for a handler that was not installed from Python and cannot be set from it.
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _logging_state() -> tuple[int, list[tuple[Any, ...]]]:
    each = [(logger, logger.level, logger.disabled, logger.propagate, list(logger.handlers)) for logger in _loggers()]
    return logging.root.manager.disable, each


def _set_logging_state(state: tuple[int, list[tuple[Any, ...]]]) -> None:
    disabled, each = state
    logging.disable(disabled)
    for logger, level, is_disabled, propagate, handlers in each:
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers[:] = is_disabled, propagate, handlers


def _numpy_state() -> Any:
    # Nothing of it can have changed where it was never imported.
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()


def _set_numpy_state(state: Any) -> None:
    if state is not None:
        sys.modules["numpy"].random.set_state(state)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_cuda_states(states: list[torch.Tensor]) -> None:
    if states:
        torch.cuda.set_rng_state_all(states)


_SETTINGS = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype),
    _Setting(torch.get_default_device, _set_default_device),
    _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(torch.get_num_threads, torch.set_num_threads),
    _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    _Setting(torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    _attribute(torch.backends.cudnn, "benchmark"),
    _attribute(torch.backends.cudnn, "deterministic"),
    _Setting(_working_directory, _set_working_directory),
    _Setting(lambda: dict(os.environ), _set_environment),
    _list_setting("argv"),
    _list_setting("path"),
    _attribute(sys, "stdout"),
    _attribute(sys, "stderr"),
    _attribute(sys, "excepthook"),
    _Setting(_signal_handlers, _set_signal_handlers),
    _Setting(_logging_state, _set_logging_state),
)
_GENERATORS = (
    _Setting(torch.random.get_rng_state, torch.random.set_rng_state),
    _Setting(_cuda_states, _set_cuda_states),
    _Setting(random.getstate, random.setstate),
    _Setting(_numpy_state, _set_numpy_state),
)
