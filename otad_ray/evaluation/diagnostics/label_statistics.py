"""What a set of labels looks like, in counts that do not grow with the rows."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from otad_ray.evaluation.empty_figure import make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Decades of the relative residual that are told apart; the first and last bins are open.
_RESIDUAL_DECADES = np.arange(-17, 1)
# A smaller weight is rounding, not support.
_SUPPORT = 1e-6


@dataclass
class LabelStatistics:
    """Counts over label rows: by status, solver, number of relaxations, support size and decade of the residual."""

    statuses: Counter[str] = field(default_factory=Counter)
    solvers: Counter[str] = field(default_factory=Counter)
    relaxations: Counter[int] = field(default_factory=Counter)
    support: Counter[int] = field(default_factory=Counter)
    residual_decades: Counter[int] = field(default_factory=Counter)

    COLUMNS = ("id", "status", "solver", "relaxations", "weights", "residual")

    @property
    def rows(self) -> int:
        return self.statuses.total()

    def add(self, table: pa.Table) -> None:
        """Count the rows of a label table."""
        self.statuses.update(table["status"].to_pylist())
        self.solvers.update(table["solver"].to_pylist())
        self.relaxations.update(table["relaxations"].to_numpy().tolist())
        weights = table["weights"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        self.support.update((weights > _SUPPORT).sum(1).tolist())
        residual = table["residual"].to_numpy()
        solved = residual[np.isfinite(residual)]
        decades = np.floor(np.log10(np.maximum(solved, 10.0 ** _RESIDUAL_DECADES[0])))
        self.residual_decades.update(np.clip(decades, _RESIDUAL_DECADES[0], 0).astype(int).tolist())

    def as_dict(self) -> dict[str, dict[str, int]]:
        """The counts, of JSON types."""
        return {
            name: {str(key): count for key, count in sorted(getattr(self, name).items())}
            for name in ("statuses", "solvers", "relaxations", "support", "residual_decades")
        }


def label_figure(statistics: LabelStatistics, title: str) -> "Figure":
    """Histograms of relaxations, support size and residual."""
    figure = make_figure(10, 3.2)
    panels = figure.subplots(1, 3)
    _bars(panels[0], statistics.relaxations, "relaxations of (l, L)")
    _bars(panels[1], statistics.support, "neighbors with weight")
    _bars(
        panels[2], statistics.residual_decades, f"relative duality gap,\npower of ten ({_RESIDUAL_DECADES[0]}: or less)"
    )
    panels[0].set_ylabel("rows")
    figure.suptitle(title)
    return figure


def _bars(axes: "Axes", counts: Counter[int], label: str) -> None:
    keys = sorted(counts)
    axes.bar(keys, [counts[key] for key in keys], color="#4269d0")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
