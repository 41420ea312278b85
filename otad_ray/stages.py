"""Where time goes: seconds by stage of a computation, counted only where somebody asks for them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# What is no stage of its own: an attack's own work, gradients, certificates, reading and shaping of rows.
OTHER = "other"
# search: nearest neighbors; solve: potentials and program (16); model: the backbone, its embedding and its head.
STAGES = ("search", "solve", "model", OTHER)


class _Clock:
    """Charges time to the stage that is running; a stage within a stage stops the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._stage = OTHER
        self._since = time.perf_counter()

    def switch(self, stage: str) -> str:
        """Go on with another stage; the one before."""
        now, before = time.perf_counter(), self._stage
        self.seconds[before] += now - self._since
        self._stage, self._since = stage, now
        return before


_active: ContextVar[_Clock | None] = ContextVar("otad_ray_stages", default=None)


@contextmanager
def record_stages() -> Iterator[dict[str, float]]:
    """Wall seconds of what is inside, by stage, complete at the end: together they are the time it took.

    Of this thread (and asynchronous task) alone.
    """
    clock = _Clock()
    token = _active.set(clock)
    try:
        yield clock.seconds
    finally:
        clock.switch(OTHER)
        _active.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Charge what is inside to a stage, one of STAGES; without `record_stages` around it, nothing happens."""
    clock = _active.get()
    if clock is None:
        yield
        return
    before = clock.switch(name)
    try:
        yield
    finally:
        clock.switch(before)
