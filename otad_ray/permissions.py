"""Who may write where: storage roots are shared by users, and some of them may only read."""

import errno
import os
import pwd
import stat
from pathlib import Path

from otad_ray.errors import InputError

# What the system says of a file that this user may not write.
FORBIDDEN = frozenset((errno.EACCES, errno.EPERM))


def check_writable(directory: Path) -> None:
    """Refuse a folder of a storage root that this user may not write to, or one whose folders it may not write to.

    Args:
        directory: the folder; a missing one is fine.

    Raises:
        InputError: naming the folder, its owner and its permissions.
    """
    if directory.is_dir():
        for folder in (directory, *(path for path in directory.iterdir() if path.is_dir())):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise refusal(folder)


def refusal(path: Path) -> InputError:
    """Return the error for a place that this user may not write to."""
    return InputError(
        f"{path} cannot be written ({describe_access(path)}); have its owner give this user permission to write, or "
        "give another root with --storage or OTAD_STORAGE"
    )


def describe_access(path: Path) -> str:
    """Say who owns a path, or the nearest folder above it that exists, and with which permissions."""
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    status = there.stat()
    return (
        f"{there} is {stat.filemode(status.st_mode)} of {_name_user(status.st_uid)}, "
        f"and this is {_name_user(os.geteuid())}"
    )


def _name_user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
