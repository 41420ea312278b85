"""The l_inf-distance net in the catalog of baselines."""

from dataclasses import replace

from otad_ray.defenses.baselines.linf_dist import LINF_NETS, LinfDist, LinfDistConfig, LinfDistNet
from otad_ray.recipes.baselines.entry import DEFAULT, BaselineEntry, Training, refuse_regression
from otad_ray.training.baselines.linf_dist import LinfDistProblem, LinfDistSettings

_BASE = LinfDistSettings()


def _build(settings: LinfDistSettings, shape: tuple[int, ...], num_outputs: int) -> LinfDistNet:
    """Return a new net."""
    return LinfDistNet(LinfDistConfig(shape=shape, num_outputs=num_outputs, depth=settings.depth, width=settings.width))


ENTRY = BaselineEntry(
    name="linf_dist",
    paper="Zhang et al. 2022, Boosting the certified robustness of L-infinity distance nets",
    source="the paper and its code: p from 8 to 1000 on the published share of the epochs, then infinite; rate 0.03; a "
    "cross entropy whose weight falls from 0.05 to 0.0002, beside a hinge on the margin",
    changes="depth 3 and width 128 in place of 5 and 5120, 10 epochs in place of 450, a cosine schedule, AdamW; the "
    "certificate in l2 is that in linf, which is weak in many dimensions",
    make=lambda parts: LinfDist(parts.network),
    training=Training(
        settings={
            DEFAULT: replace(_BASE, epochs=10, width=128),
            "digits": replace(_BASE, epochs=30, batch_size=64, width=64, hinge=0.3, learning_rate=0.02),
            # The published size; days on a CPU.
            "cifar10": replace(_BASE, epochs=400, batch_size=512, depth=6, width=5120, hinge=0.2),
        },
        build=_build,
        problem=LinfDistProblem,
        family=LINF_NETS,
    ),
    refuse=refuse_regression,
)
