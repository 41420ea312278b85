"""Median filters in the catalog of baselines."""

from functools import partial

from otad_ray.data import DataSet
from otad_ray.defenses.baselines.median_filter import MedianFilter
from otad_ray.recipes.baselines.entry import BaselineEntry, BaselineParts, refuse_tables


def _make(parts: BaselineParts, *, size: int) -> MedianFilter:
    return MedianFilter(parts.net, size=size)


def _refuse(definition: DataSet, *, size: int) -> str | None:
    if reason := refuse_tables(definition):
        return reason
    if min(definition.shape[1:]) < size:
        return f"it needs images of at least {size} x {size} pixels, and samples have shape {definition.shape}"
    return None


def _entry(name: str, *, size: int, changes: str) -> BaselineEntry:
    return BaselineEntry(
        name=name,
        paper="Xu, Evans and Qi, Feature squeezing: detecting adversarial examples in deep neural networks, 2018",
        source="the paper's windows of 2 x 2 and 3 x 3 pixels, with reflected borders (mode reflect of scipy.ndimage)",
        changes=changes,
        make=partial(_make, size=size),
        refuse=partial(_refuse, size=size),
    )


_PURIFIER = "the filtered image is classified, and no input is rejected: the paper compares both outputs to detect"

ENTRIES = (
    _entry("median_filter", size=3, changes=_PURIFIER),
    _entry(
        "median_filter_2x2",
        size=2,
        changes=f"{_PURIFIER}; the median of a window is the mean of its two middle values, where the published code "
        "takes the larger one, which brightens images",
    ),
)
