"""The end of a program whose output nobody reads any more, as in `otad defenses | head -1`."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# What shells report of a program that SIGPIPE ended, which is how most programs end there.
_UNREAD = 128 + 13


@contextmanager
def stop_when_unread() -> Iterator[None]:
    """Run the block, and end the program without a traceback if the reader of its output has gone.

    Raises:
        SystemExit: with 141, then.
        BrokenPipeError: of another connection, as it is: that of a job to a server is an error of the job.
    """
    try:
        try:
            yield
        except SystemExit:
            # Or else Python writes what is left after the last handler, and complains.
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:
            raise
        for stream in unread:
            # Python flushes both once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(_UNREAD) from None


def _is_unread(stream: TextIO) -> bool:
    """Return whether a stream is a pipe, or a socket, that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except OSError:
        # A stream of tests or notebooks has no descriptor.
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
