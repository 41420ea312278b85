"""Figures for files, in a process that inherited a notebook's settings."""

import os
import subprocess
import sys

# As of a notebook whose package is not installed here.
BACKEND = "module://missing_package.backend_inline"
SCRIPT = """
import contextlib, io, os
# Other packages try it first.
with contextlib.suppress(ValueError):
    import matplotlib
from otad_ray.evaluation.empty_figure import make_figure
figure = make_figure(2, 1)
figure.subplots().plot([0, 1])
file = io.BytesIO()
figure.savefig(file)
print(file.getvalue()[1:4].decode(), os.environ["MPLBACKEND"])
"""


def test_a_backend_that_cannot_be_imported_prevents_no_figure() -> None:
    environment = {**os.environ, "MPLBACKEND": BACKEND}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PNG", BACKEND]
