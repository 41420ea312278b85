"""Places that a user names: paths, the addresses of SQLite databases, and where runs are tracked.

Everything here is text in, path or address out; nothing is opened or made.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from otad_ray.errors import InputError

SQLITE = "sqlite:///"
# What MLflow calls by a word alone.
_SCHEMELESS = ("databricks", "databricks-uc", "uc")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")
_ALLOW_FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"
_TRACKING = "--tracking-uri or MLFLOW_TRACKING_URI"


def resolve_path(given: str | Path, option: str) -> Path:
    """Return the absolute path that a user means, in which `~` is the home folder and `file:///path` is `/path`.

    Args:
        given: what the user gave.
        option: what it was given for, such as "--labels", for messages.

    Raises:
        InputError: for the address of anything but a local path, such as a bucket.
    """
    text = str(given)
    if _SCHEME.match(text):
        text = _read_file_address(text, option)
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"{option} is {text!r}: there is no such home folder; give an absolute path") from error


def resolve_tracking_uri(given: str) -> str:
    """Return the tracking URI that a user means, with an absolute path if it names a file.

    Raises:
        InputError: for a folder, which MLflow takes no runs in, and for a server without `http://`.
    """
    if given.startswith(SQLITE):
        path, mark, query = given.removeprefix(SQLITE).partition("?")
        return f"{sqlite_uri(resolve_path(unquote(path), _TRACKING))}{mark}{query}"
    if given in _SCHEMELESS or (_SCHEME.match(given) and not given.startswith("file://")):
        return given
    if _HOST_AND_PORT.fullmatch(given):
        raise InputError(f"the tracking URI ({_TRACKING}) is {given!r}, which names no protocol; give http://{given}")
    folder = resolve_path(given, _TRACKING)
    if os.environ.get(_ALLOW_FILE_STORE, "").lower() in ("true", "1"):
        return folder.as_uri()
    raise InputError(
        f"the tracking URI ({_TRACKING}) is {given!r}, a folder, and MLflow keeps no new runs in folders; give the "
        f"address of a server, http://..., or of a database, {sqlite_uri(folder.parent / 'mlflow.db')} "
        "(mlflow migrate-filestore copies earlier runs into one)"
    )


def sqlite_uri(path: Path) -> str:
    """Return the address of an SQLite database at an absolute path, which may hold `?` and `%`."""
    plain, special = _split_before_special(str(path))
    # The special part is quoted with its slashes. MLflow makes the folder that the text names before it decodes it,
    # which would be another folder than the database's.
    return f"{SQLITE}{plain}{quote(special, safe='')}"


def find_database(uri: str) -> Path | None:
    """Return the file of an SQLite database by its address; None for another address."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def _split_before_special(path: str) -> tuple[str, str]:
    """Split a path before the first part that holds a `?` or `%`."""
    found = re.search(r"[^/]*[?%]", path)
    return (path, "") if found is None else (path[: found.start()], path[found.start() :])


def _read_file_address(address: str, option: str) -> str:
    """Return the path of `file:///path`; InputError for every other address."""
    parts = urlsplit(address)
    if parts.scheme.lower() == "file" and parts.netloc in ("", "localhost"):
        # A question mark or a number sign belongs to the path: files have no queries.
        return unquote(address.partition("://")[2].removeprefix(parts.netloc))
    raise InputError(
        f"{option} is {address!r}: a shared POSIX path is needed, where files can be mapped, locked and renamed, such "
        "as /mnt/shared/otad on NFS 4, EFS, FSx or Filestore"
    )
