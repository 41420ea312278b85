"""The benchmark's part on defenses that purify inputs before the net."""

from collections.abc import Iterator

import numpy as np

from otad_ray.benchmarks import Measurement, measure_purifier
from otad_ray.machine import num_cores
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.recipe import explain_misfit
from otad_ray.recipes.defense_source import NET
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace

_ROWS = 256
_PURIFIERS = ("median_filter", "median_filter_2x2", "stl", "ape_gan", "diffpure")


def measure_purifiers(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure the forward pass of each purifier that fits the data set; those that are missing are trained first."""
    fitting = [name for name in _PURIFIERS if explain_misfit(workspace, BASELINES[name]) is None]
    found = {name: source.open() for name, source in find_defenses(workspace, (NET, *fitting)).items()}
    rows = workspace.rows("test")
    inputs = rows.take(np.arange(min(_ROWS, len(rows)))).x
    for name in fitting:
        yield measure_purifier(name, found[name], found[NET], inputs, num_threads=num_cores())
