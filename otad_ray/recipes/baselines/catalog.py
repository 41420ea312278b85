"""The baselines by name. To add one, add its entry."""

from collections.abc import Mapping

from otad_ray.recipes.baselines import adversarial
from otad_ray.recipes.baselines.entry import BaselineEntry

_ENTRIES: tuple[BaselineEntry, ...] = (*adversarial.ENTRIES,)

BASELINES: Mapping[str, BaselineEntry] = {entry.name: entry for entry in _ENTRIES}
