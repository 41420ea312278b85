"""Directories that jobs make: where they lie, how they are named, written and described.

Everything lies below one storage root, `<root>/<preset>/<kind>/<hash>/`, each with a `manifest.json`. Files and
directories appear whole or not at all: they are written beside their place and renamed.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from otad_ray.errors import InputError, RetryableError
from otad_ray.locations import resolve_path
from otad_ray.locks import one_at_a_time
from otad_ray.permissions import FORBIDDEN, describe_access, refusal

MANIFEST = "manifest.json"
# Metadata of a dataclass field that is called otherwise in JSON, such as one that was renamed.
JSON_NAME = "json_name"
# Tells this process from earlier ones of the same number.
_START = secrets.token_hex(4)
# What a storage says to those who write: it is full, or read-only.
_STORAGE_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))
# What file systems without hard links say of one.
_NO_LINKS = frozenset((errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EMLINK))


def storage_root(given: str | Path | None = None) -> Path:
    """Return the storage root, absolute and writable: `given`, else `OTAD_STORAGE`, else `~/otad_ray`.

    Raises:
        InputError: if it is no path, or nothing can be written there.
    """
    option = "--storage" if given else "OTAD_STORAGE"
    root = resolve_path(given or os.environ.get("OTAD_STORAGE") or Path.home() / "otad_ray", option)
    probe = root / f".probe.{_writer()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.touch()
        # Another thread may ask at the same time.
        probe.unlink(missing_ok=True)
    except OSError as error:
        who = f"; {describe_access(root)}" if error.errno in FORBIDDEN else ""
        raise InputError(
            f"storage root {root} cannot be written ({error.strerror}{who}); "
            "give another with --storage or OTAD_STORAGE"
        ) from error
    return root


def content_hash(value: Any) -> str:
    """Twelve hex digits that depend on the value alone: of JSON types, dataclasses and their nestings."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_jsonable(value: Any) -> Any:
    """Return the value with dataclasses turned into mappings, paths into strings and tuples into lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.metadata.get(JSON_NAME, item.name): to_jsonable(getattr(value, item.name)) for item in fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def replace_non_finite(value: Any) -> Any:
    """Return a value of JSON types with infinities and NaN as text, for which JSON has no number."""
    if isinstance(value, Mapping):
        return {name: replace_non_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(_json_text(value))


def write_json_once(path: Path, value: Any) -> bool:
    """Write a JSON file unless it exists; whether this call wrote it. Of several writers exactly one does."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.tmp.{_writer()}")
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(_json_text(value))
            _flush(temporary)
            return _place_once(temporary, path)
        finally:
            _discard(temporary)


def read_manifest(directory: Path, *, kind: str, fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest of an artifact; InputError where it is missing, broken, of another kind or lacks a field."""
    path = Path(directory) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{directory} is no {kind} directory: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete {directory} and build it again") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise InputError(f"{directory} holds {found!r}, need a {kind} directory")
    for field in fields:
        if field not in manifest:
            raise InputError(f"{path} lacks {field!r}; delete {directory} and build it again")
    return manifest


def refuse_occupied(directory: Path) -> None:
    """InputError for a place that holds something already; an empty directory does not."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise InputError(f"{directory} exists and is never overwritten: delete it or give another directory")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends, and is gone if it raises.

    Raises RetryableError where the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp.{_writer()}")
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            _discard(temporary)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that becomes it when the block ends, and is gone if it raises.

    Where another process made `path` meanwhile, that one stays: both hold the same content by construction.
    Raises RetryableError where the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp.{_writer()}")
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent)
            temporary.mkdir()
            yield temporary
            try:
                temporary.rename(path)
            except OSError:
                if not path.exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Whether a file or directory is one of somebody's unfinished writes."""
    return path.name.startswith(".") and ".tmp." in path.name


def remove_abandoned(directory: Path) -> None:
    """Remove temporaries left in `directory` by processes of this host that are gone."""
    for temporary in filter(is_temporary, directory.iterdir()):
        host, process, start = temporary.name.rpartition(".tmp.")[2].rsplit("-", 2)
        # A container's next life has its last one's host name and process number.
        own = int(process) == os.getpid()
        if host != _host() or (start == _START if own else _is_running(int(process))):
            continue
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            _discard(temporary)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise RetryableError or InputError, naming `path`, for what the storage says in the block."""
    try:
        yield
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise refusal(path) from error
        if error.errno is None or error.errno not in _STORAGE_ERRORS:
            raise
        raise RetryableError(
            f"{path} cannot be written ({os.strerror(error.errno)}); make room there or mend it, and run the same "
            "command again: what is finished is kept"
        ) from error


def _place_once(temporary: Path, path: Path) -> bool:
    """Give a file its name unless that is taken; return whether it was given."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A rename alone would replace what another process has written meanwhile.
        with one_at_a_time(path.with_name(f".{path.name}.lock")):
            if path.exists():
                return False
            os.replace(temporary, path)
    return True


def _flush(path: Path) -> None:
    """To the disk before the rename: else a crash of the machine can leave a whole name on half a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _discard(temporary: Path) -> None:
    """Nothing can be removed from a disk that became read-only: the next run does it."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def _json_text(value: Any) -> str:
    return json.dumps(to_jsonable(value), indent=2) + "\n"


def _canonical(value: Any) -> str:
    return json.dumps(to_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def _writer() -> str:
    return f"{_host()}-{os.getpid()}-{_START}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
