"""Figures for files, drawn without a window and in whatever environment a process has inherited."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BACKEND = "MPLBACKEND"


def make_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches.

    Matplotlib is imported here: actors, which draw nothing, would wait for it.
    """
    try:
        from matplotlib.figure import Figure
    except ValueError:
        # A notebook sets its own backend for all processes that it starts, and matplotlib cannot be imported where
        # that one is not installed. Files need no backend.
        inherited = os.environ.pop(_BACKEND, None)
        if inherited is None:
            raise
        try:
            from matplotlib.figure import Figure
        finally:
            os.environ[_BACKEND] = inherited
    return Figure(figsize=(width, height), layout="constrained")
