"""Where the artifacts of runs lie that a database keeps without a server, also after the database was moved."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FOLDER = "mlartifacts"
# MLflow writes absolute addresses into these columns.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifact_folder(database: Path) -> Path:
    """Return the folder beside a database that artifacts go to."""
    return database.parent / _FOLDER


def follow_database(database: Path, *, lock_seconds: float) -> None:
    """Make a database that was moved, or copied, with its artifacts name the place where they are now.

    Otherwise runs would be written to the old place, which may belong to somebody else by now.

    Args:
        database: the SQLite file; one without MLflow's tables is left alone.
        lock_seconds: how long to wait for a program that writes to it.

    Raises:
        sqlite3.Error: if it cannot be read or written.
    """
    new = artifact_folder(database)
    with closing(sqlite3.connect(database, timeout=lock_seconds)) as connection:
        columns = [(table, column) for table, column in _COLUMNS if _has_column(connection, table, column)]
        if columns:
            for old in _find_moved(connection, new):
                for table, column in columns:
                    _replace_start(connection, table, column, old, new.as_uri())
            connection.commit()


def _find_moved(connection: sqlite3.Connection, new: Path) -> Iterator[str]:
    """Yield the addresses of artifact folders that were beside the database before it came here."""
    rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    for (address,) in rows:
        parts = urlsplit(address or "")
        old = Path(unquote(parts.path))
        if parts.scheme == "file" and old.name == _FOLDER and old != new and not _stays(old, new):
            yield address


def _stays(old: Path, new: Path) -> bool:
    """Return whether artifacts stay where they are: one folder by two names, or the database alone was moved."""
    if not old.exists():
        return False
    return not new.exists() or old.samefile(new)


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))


def _replace_start(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
    )
