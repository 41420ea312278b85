"""Copies among the files of a user's folder."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from otad_ray.artifacts import file_sha256
from otad_ray.data.parquet.files import open_parquet
from otad_ray.errors import InputError

# What systems add to the name of a file that they copy: "a (1)", "a copy", "a copy 2", "a - Copy", "a - Copy (2)".
_COPY_NAME = re.compile(r"(?P<original>.+?)(?: \(\d+\)| copy(?: \d+)?| - [Cc]opy(?: \(\d+\))?)")


def refuse_copies(parts: Mapping[str, tuple[Path, ...]]) -> None:
    """Refuse copies of files, whose rows would count twice, or be tested on after they were trained on.

    Args:
        parts: the files of "train" and of "test", or all of them under "".

    Raises:
        InputError: for a file with a copy's name beside its original, and for a file of test that is a byte copy of
            one of train.
    """
    advice = "remove one of them, or say that it is meant with --allow-copies"
    for path in (file for files in parts.values() for file in files):
        match = _COPY_NAME.fullmatch(path.stem)
        if match and (path.with_name(f"{match['original']}{path.suffix}")).is_file():
            raise InputError(
                f"{path} bears the name of a copy of {match['original']}{path.suffix} beside it, whose rows would "
                f"count twice; {advice}"
            )
    test = parts.get("test", ())
    sizes = {path.stat().st_size for path in test}
    by_content = {_hash_file(path): path for path in parts.get("train", ()) if path.stat().st_size in sizes}
    for path in test if by_content else ():
        copy = by_content.get(_hash_file(path))
        if copy is not None and _count_rows(path):
            raise InputError(f"{path} (test) is a byte copy of {copy} (train), so the net is tested on it; {advice}")


def _hash_file(path: Path) -> str:
    status = path.stat()
    return _hash_version(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_version(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file as it was then: a job asks for its data set many times."""
    return file_sha256(path)


def _count_rows(path: Path) -> int:
    with open_parquet(path) as file:
        return file.metadata.num_rows
