"""Figures for files, drawn without a window and in whatever environment a process has inherited."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BACKEND = "MPLBACKEND"


def make_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches.

    Matplotlib is imported here: actors, which draw nothing, would wait for it.
    """
    try:
        import matplotlib  # noqa: F401
    except (AttributeError, ValueError):
        _import_without_backend()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _import_without_backend() -> None:
    """Import matplotlib although it fails on the backend that the environment names; files need none.

    A notebook names its own for all processes that it starts, also where that one is not installed.
    """
    inherited = os.environ.pop(_BACKEND, None)
    # The parts that were imported before it failed would not be found in the module that is imported now.
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]
    try:
        import matplotlib  # noqa: F401
    finally:
        if inherited is not None:
            os.environ[_BACKEND] = inherited
