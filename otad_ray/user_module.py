"""Users' files: one loader for everything that is named by `path/to/file.py:name`.

Each file is loaded into a namespace of its own. The modules that it imports from its folder are its own too, wherever
it imports them, and lie in `sys.modules` under private names: two files with a `helper` beside them do not meet, and
neither can hide an installed package from anybody else. What a file changes in the process is put back.
"""

import hashlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn, SupportsIndex

from otad_ray.errors import InputError, name_type
from otad_ray.locations import resolve_path
from otad_ray.process_state import read_process_state, restore_process_state
from otad_ray.user_imports import Namespace, visible_to_pickle

_HOW = 'put what a script does under `if __name__ == "__main__":`'


def is_location(name: str) -> bool:
    """Return whether a name that a user gave is `path/to/file.py:name` rather than one of a catalog."""
    return ":" in name


def split_location(location: str, *, expected: str) -> tuple[Path, str]:
    """Split `path/to/file.py:name` into the absolute path of an existing Python file and the name.

    Args:
        location: What the user gave; its file is a path as `resolve_path` takes it.
        expected: What the name should stand for, with its article, for error messages.

    Raises:
        InputError: For another form, a file that does not exist or is no local path, or one whose name does not end
            with `.py`.
    """
    file, _, name = location.rpartition(":")
    form = f"need path/to/file.py:name, {expected}"
    if not file or not name.isidentifier():
        raise InputError(f"{location!r} has no name of Python's after a colon; {form}")
    path = resolve_path(file, f"the file of {location!r}")
    if not path.is_file():
        raise InputError(f"{location!r}: there is no file {path}; {form}")
    if path.suffix != ".py":
        raise InputError(f"{path} is no Python file; its name must end with .py")
    return path, name


def absolute_location(location: str, *, expected: str) -> str:
    """Return the location with an absolute path, which means the same in every working directory."""
    path, name = split_location(location, expected=expected)
    return f"{path}:{name}"


def load_object(location: str, *, expected: str) -> Any:
    """Execute a user's file, once per process for the same content, and return what it calls `name`.

    Args:
        location: `path/to/file.py:name`.
        expected: What the name should stand for, with its article, for error messages.

    Returns:
        The attribute. It is loaded anew once the file, or one that it imported from its folder, has changed.

    Raises:
        InputError: If the file cannot be executed, ends the program, or has no such attribute.
    """
    path, name = split_location(location, expected=expected)
    module = _open_file(path).module
    if name not in vars(module):
        public = [
            known
            for known, value in vars(module).items()
            if not known.startswith("_") and not isinstance(value, ModuleType)
        ]
        raise InputError(f"{path} has no {name!r}; need {expected}. It has: {', '.join(public) or 'nothing'}")
    return vars(module)[name]


def call_object(location: str, *, expected: str) -> Any:
    """Return what a user's function or class returns when it is called without arguments.

    It runs in the process as its file left it (working directory, seeds, default dtype, ...), so that what it returns
    does not depend on what ran before. Raises InputError as `load_object` does, and for what the call raises.
    """
    called = load_object(location, expected=expected)
    if not callable(called):
        raise InputError(f"{location} is {name_type(called)}; need {expected}")
    path, _ = split_location(location, expected=expected)
    with _open_file(path).running(f"{location} cannot be built"):
        return called()


def files_of(location: str) -> Mapping[Path, str]:
    """Return the files that a user's file consists of so far, each with the SHA-256 of its bytes in hex.

    These are the file itself and all that it imported from its folder, directly or through one another. An import
    inside a function is only known once the function ran.
    """
    path, _ = split_location(location, expected="a name in the file")
    return {Path(file): digest for file, digest in sorted(_open_file(path).namespace.files.items())}


def fingerprint(location: str) -> str:
    """Return 12 hex digits that change with the name or with any of `files_of`, but not with where the folder lies."""
    path, name = split_location(location, expected="a name in the file")
    digest = hashlib.sha256(name.encode())
    for file, content in files_of(location).items():
        digest.update(f"\n{os.path.relpath(file, path.parent)} {content}".encode())
    return digest.hexdigest()[:12]


class _UserFile:
    """A user's file, executed. namespace: its modules. module: the file's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace = Namespace(path)
        self._state: list[Any] | None = None
        with self.running(f"{path} cannot be loaded"):
            self.module = self.namespace.execute()
            self._state = read_process_state()

    @contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Run the file's code: in the state that it left the process in, which is put back afterwards.

        Raises InputError, beginning with `what`, for whatever the code raises, also to end the program.
        """
        before = read_process_state()
        interrupts: list[int] = []
        try:
            with warnings.catch_warnings(), visible_to_pickle(self.namespace):
                if self._state is not None:
                    restore_process_state(self._state)
                sys.argv = _NoArguments([str(self.path)])
                _note_interrupts(interrupts)
                yield
        except SystemExit as end:
            raise InputError(f"{what}: it ends the program, by sys.exit({end.code!r}); {_HOW}") from None
        except KeyboardInterrupt:
            if interrupts:
                raise
            raise InputError(f"{what}: it raises KeyboardInterrupt; let it raise an error of its own") from None
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            raise InputError(f"{what}: {kind}{error}{self._line_of(error)}") from error
        finally:
            restore_process_state(before)

    def is_current(self) -> bool:
        """Return whether all its files still hold what was executed."""
        return all(_sha256(Path(file)) == digest for file, digest in self.namespace.files.items())

    def _line_of(self, error: Exception) -> str:
        """Say where in the user's files an error arose, if it arose there."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [frame for frame in frames if frame.filename in self.namespace.files]
        return f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""


_opened: dict[Path, _UserFile] = {}


def _open_file(path: Path) -> _UserFile:
    found = _opened.get(path)
    if found is None or not found.is_current():
        found = _opened[path] = _UserFile(path)
    return found


class _NoArguments(list[str]):
    """Arguments of a program, for code that is no program: the job's options are not its own to read."""

    def __getitem__(self, index: Any) -> Any:
        first = index.start if isinstance(index, slice) else index
        if first not in (0, None):
            self._refuse()
        return super().__getitem__(index)

    def pop(self, index: SupportsIndex = -1) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(f"it reads the arguments of the command line, which are not its own; {_HOW}")


def _note_interrupts(interrupts: list[int]) -> None:
    """Note when the user presses Ctrl-C, to tell that from a KeyboardInterrupt that a file raises."""
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        if callable(handler):
            handler(number, frame)

    if callable(handler):
        signal.signal(signal.SIGINT, note)


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
