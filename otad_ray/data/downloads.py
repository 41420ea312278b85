"""Checked downloads."""

from dataclasses import dataclass
from pathlib import Path

from otad_ray.errors import InputError

_TIMEOUT = 60.0


@dataclass(frozen=True)
class Remote:
    """A published file. hash: "md5:..." or "sha256:...", or None where its contents are checked after reading."""

    url: str
    hash: str | None


def download(remote: Remote, directory: Path, *, instead: str) -> Path:
    """Fetch a file into `directory`; its path.

    Raises InputError with the address, what went wrong, and `instead`: what to put below OTAD_DATA.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    fetch = pooch.HTTPDownloader(timeout=_TIMEOUT)
    name = remote.url.rpartition("/")[2]
    try:
        pooch.retrieve(remote.url, known_hash=remote.hash, fname=name, path=directory, downloader=fetch)
    except (OSError, RequestException, ValueError) as error:
        raise InputError(
            f"{remote.url} could not be fetched ({type(error).__name__}: {error}); try again, or set OTAD_DATA to a "
            f"folder that holds {instead}"
        ) from error
    return directory / name
