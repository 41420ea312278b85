"""How fast features move while the input goes from one sample to another: jumps show as speeds without a bound."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from otad_ray.defenses import Defense
from otad_ray.errors import InputError
from otad_ray.evaluation.empty_figure import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH_ROWS = 256
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")


@torch.no_grad()
def measure_speeds(defense: Defense, start: Tensor, end: Tensor, steps: int) -> np.ndarray:
    """Measure how fast the feature moves along a segment.

    Args:
        defense: one that has features.
        start: first sample (*shape).
        end: last sample (*shape), another one.
        steps: equal steps from the one to the other, at least 1.

    Returns:
        `|z(x_k+1) - z(x_k)| / |x_k+1 - x_k|` (steps,), float64. A map that is L-Lipschitz stays below L, up to
        rounding; of one that jumps the largest grows with the number of steps.

    Raises:
        InputError: for a defense without features, and for samples that are equal.
    """
    length = float((end - start).norm())
    if steps < 1 or length == 0:
        raise InputError(f"need at least one step between two different samples, got {steps} steps of length {length}")
    shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    features, inputs = [], []
    for part in shares.split(_BATCH_ROWS):
        batch = torch.lerp(start.double(), end.double(), part.view(-1, *[1] * start.dim())).to(start)
        feature = defense.forward_details(batch)[1]
        if feature is None:
            raise InputError(f"{type(defense).__name__} has no features to follow; take otad, otad_global or knn")
        features.append(feature.double())
        inputs.append(batch.double().flatten(1))
    moved, stepped = (torch.cat(rows).diff(dim=0).norm(dim=1) for rows in (features, inputs))
    return (moved / stepped).cpu().numpy()


def speed_figure(speeds: Mapping[str, np.ndarray], *, smoothness: float | None, title: str) -> "Figure":
    """Draw the speeds (steps,) of several defenses, by name, over the way from one sample to the other.

    Args:
        speeds: as `measure_speeds` returns them.
        smoothness: L, drawn as a line; None for none.
        title: of the figure.
    """
    figure = make_figure(7, 3.5)
    axes = figure.subplots()
    for (name, values), color in zip(speeds.items(), _COLORS * len(speeds), strict=False):
        axes.plot((np.arange(len(values)) + 0.5) / len(values), values, label=name, color=color, linewidth=0.9)
    if smoothness is not None:
        axes.axhline(smoothness, color="0.4", linewidth=0.8, linestyle=":", label=f"L = {smoothness:g}")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the way from one sample to the other")
    axes.set_ylabel("speed of the feature, |dz| / |dx|")
    axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure
