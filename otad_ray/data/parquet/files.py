"""Parquet files: opened by their footers, and read such that damage is told by the file's name."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.errors import InputError


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turn what Arrow raises for a damaged page of a file into an InputError that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: a part of it cannot be read ({_on_one_line(error)}); damaged? fetch or write it again"
        ) from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file by its footer; pages with checksums are verified when they are read.

    Raises:
        InputError: if there is no such file, or it has no footer.
    """
    try:
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is no readable Parquet file ({_on_one_line(error)}); truncated? fetch it again"
        ) from error


def read_columns(files: Sequence[Path], names: Sequence[str]) -> pa.Table:
    """Read some columns of all files into memory; a file without rows may lack them beside others.

    Raises:
        InputError: for a missing column or a damaged file.
    """
    tables: list[pa.Table] = []
    for path in files:
        with open_parquet(path) as file:
            if not file.metadata.num_rows and (tables or path != files[-1]):
                continue
            require_columns(path, file.schema_arrow, names)
            with refusing_damage(path):
                tables.append(file.read(columns=list(names)).select(list(names)).replace_schema_metadata())
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"{files[0].parent}: the files cannot be read together ({_on_one_line(error)}); write them again"
        ) from error


def require_columns(path: Path, schema: pa.Schema, names: Sequence[str]) -> None:
    """Refuse a file in which a column is missing, or there twice.

    Raises:
        InputError: naming the first such column.
    """
    counts = Counter(schema.names)
    for name in names:
        if not counts[name]:
            raise InputError(f"{path} lacks column {name!r}; it has {', '.join(schema.names)}")
        if counts[name] > 1:
            raise InputError(f"{path} has {counts[name]} columns called {name!r}; rename or remove all but one")


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
