"""Figures of a sweep: curves over the budget, adversarial examples, and distributions."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from otad_ray.evaluation.bracket.distributions import count_radii, count_relaxations
from otad_ray.evaluation.bracket.proportions import Proportion
from otad_ray.evaluation.bracket.report import Bracket
from otad_ray.evaluation.empty_figure import make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart by the color-blind; markers and line styles tell them apart in gray print.
PALETTE = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
CERTIFIED_COLOR, WORST_COLOR = "#009E73", "#000000"
_MARKERS = "osD^vPX<>*"
_STYLES = ("-", "--", ":", "-.")
_COLUMN_WIDTH = 1.4


def robustness_figure(report: Bracket, *, norm: str, eps_unit: str, title: str) -> "Figure":
    """Accuracy over finite budgets of a norm: each attack, the worst case in bold, the certified, the bracket shaded.

    Bars are Wilson intervals. eps_unit: the data set's, said on the axis.
    """
    figure = make_figure(7, 4.5)
    axes = figure.subplots()
    budgets = [budget for budget in report.budgets if budget.norm == norm and np.isfinite(budget.eps)]
    eps = [budget.eps for budget in budgets]
    worst = [budget.worst_case for budget in budgets]
    _curve(axes, eps, worst, label="worst case", color=WORST_COLOR, marker="o", linewidth=2.8, zorder=4)
    certified = [budget.certified for budget in budgets if budget.certified is not None]
    if certified:
        _curve(
            axes,
            eps,
            certified,
            label="certified (probabilistic)" if report.probabilistic else "certified",
            color=CERTIFIED_COLOR,
            marker="s",
            linewidth=2.0,
            zorder=3,
        )
        low, high = [share.value for share in certified], [share.value for share in worst]
        axes.fill_between(eps, low, high, color="0.5", alpha=0.2, linewidth=0, label="the truth lies here")
    _attack_curves(axes, report, norm)
    axes.axhline(report.standard.value, color="0.4", linewidth=0.8, linestyle=":", label="standard")
    axes.set_xlabel(f"{norm} eps ({eps_unit})")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(title)
    return figure


def example_figure(
    clean: np.ndarray,
    adversarial: np.ndarray,
    clean_neighbors: np.ndarray,
    adversarial_neighbors: np.ndarray,
    *,
    captions: Sequence[tuple[str, str]],
    title: str,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> "Figure | None":
    """A row per sample: the clean image and its nearest training points, the adversarial one and its; None for others.

    clean, adversarial (n, C, H, W) with C 1 or 3; neighbors (n, k, C, H, W). captions: of the clean and of the
    adversarial image, such as the predicted classes. bounds: what is shown as black and as white.
    """
    if clean.ndim != 4 or clean.shape[1] not in (1, 3) or not len(clean):
        return None
    columns = 2 * (clean_neighbors.shape[1] + 1)
    figure = make_figure(_COLUMN_WIDTH * columns, 1.25 * _COLUMN_WIDTH * len(clean))
    panels = figure.subplots(len(clean), columns, squeeze=False)
    for row, caption in enumerate(captions):
        pairs = ((clean, clean_neighbors), (adversarial, adversarial_neighbors))
        images = [image for own, near in pairs for image in (own[row], *near[row])]
        names = [name for said in caption for name in (said, *(["neighbor"] * (columns // 2 - 1)))]
        for axes, image, name in zip(panels[row], images, names, strict=True):
            _show(axes, image, name, bounds)
    figure.suptitle(title)
    return figure


def radius_figure(certificates: pa.Table, *, eps_unit: str, title: str) -> "Figure | None":
    """Histogram of finite certified radii of the samples that are right, by method; None where there are none.

    certificates: as described in `otad_ray.evaluation.bracket.certified`.
    """
    radii = count_radii(certificates)
    if radii is None:
        return None
    figure = make_figure(6, 3.6)
    axes = figure.subplots()
    axes.hist(
        [radii.edges[:-1] for _ in radii.counts],
        bins=radii.edges,
        weights=list(radii.counts.values()),
        stacked=True,
        color=[color for color, _ in zip(cycle(PALETTE), radii.counts, strict=False)],
        label=list(radii.counts),
    )
    axes.set_xlabel(f"certified l2 radius ({eps_unit})")
    axes.set_ylabel(f"of {radii.right} right samples")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(title)
    return figure


def relaxation_figure(records: pa.Table, *, title: str) -> "Figure | None":
    """Relaxations of (l, L) at clean and at adversarial inputs, as shares of records; None if no solver was asked."""
    relaxations = count_relaxations(records)
    if relaxations is None:
        return None
    figure = make_figure(6, 3.6)
    axes = figure.subplots()
    for (name, shares), shift, color in zip(relaxations.items(), (-0.2, 0.2), PALETTE, strict=False):
        axes.bar(np.arange(len(shares)) + shift, shares, width=0.4, label=name, color=color)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_xlabel("relaxations of (l, L)")
    axes.set_ylabel("share of records")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(title)
    return figure


def _attack_curves(axes: "Axes", report: Bracket, norm: str) -> None:
    results = [result for result in report.attacks if result.norm == norm and np.isfinite(result.eps)]
    looks = zip(cycle(PALETTE), cycle(_MARKERS), cycle(_STYLES), strict=False)
    for (color, marker, style), attack in zip(looks, sorted({result.attack for result in results}), strict=False):
        own = [result for result in results if result.attack == attack]
        _curve(
            axes,
            [result.eps for result in own],
            [result.robust for result in own],
            label=attack,
            color=color,
            marker=marker,
            linestyle=style,
            linewidth=1.2,
        )


def _curve(axes: "Axes", eps: list[float], shares: list[Proportion], **look: object) -> None:
    values, low, high = (np.array([getattr(share, name) for share in shares]) for name in ("value", "low", "high"))
    # Rounding may leave an end of the interval on the wrong side of the share.
    errors = np.maximum([values - low, high - values], 0.0)
    axes.errorbar(eps, values, yerr=errors, capsize=2.5, markersize=4.5, elinewidth=0.9, **look)  # type: ignore[arg-type]


def _show(axes: "Axes", image: np.ndarray, caption: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    scaled = np.clip((image - low) / (high - low), 0.0, 1.0).transpose(1, 2, 0)
    axes.imshow(scaled[:, :, 0] if scaled.shape[2] == 1 else scaled, cmap="gray", vmin=0.0, vmax=1.0)
    axes.set_title(caption, fontsize="x-small", y=1.0)
    axes.set_axis_off()
    # The layout would measure ticks although none are shown, and look for a place of the title among them. That takes
    # most of the time of drawing.
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
