"""The baselines by name. To add one, add its entry."""

from collections.abc import Mapping

from otad_ray.recipes.baselines import (
    adversarial,
    ape_gan,
    diffpure,
    linf_dist,
    median_filter,
    nearest_neighbor,
    smoothing,
    soc_plus,
    stl,
)
from otad_ray.recipes.baselines.entry import BaselineEntry

_ENTRIES: tuple[BaselineEntry, ...] = (
    *adversarial.ENTRIES,
    *median_filter.ENTRIES,
    stl.ENTRY,
    ape_gan.ENTRY,
    diffpure.ENTRY,
    linf_dist.ENTRY,
    soc_plus.ENTRY,
    nearest_neighbor.ENTRY,
    smoothing.ENTRY,
)

BASELINES: Mapping[str, BaselineEntry] = {entry.name: entry for entry in _ENTRIES}
