"""Purification by a diffusion model in the catalog of baselines."""

from dataclasses import replace

from otad_ray.defenses.baselines.denoiser import DENOISERS, Denoiser, DenoiserConfig
from otad_ray.defenses.baselines.diffpure import DiffPure
from otad_ray.recipes.baselines.entry import DEFAULT, BaselineEntry, Training, refuse_all_but_image_classes
from otad_ray.training.baselines.diffpure import DiffPureProblem, DiffPureSettings

_BASE = DiffPureSettings(epochs=2, batch_size=128, learning_rate=3e-3)


def _build(settings: DiffPureSettings, shape: tuple[int, ...], num_outputs: int) -> Denoiser:
    """Return a new denoiser."""
    return Denoiser(
        DenoiserConfig(
            shape=shape, width=settings.width, last_step=settings.last_step, reverse_steps=settings.reverse_steps
        )
    )


ENTRY = BaselineEntry(
    name="diffpure",
    paper="Nie et al. 2022, Diffusion models for adversarial purification",
    source="t* of 0.1 of the diffusion time (linf; 0.075 in l2); the diffusion of Ho et al. 2020 with 1000 steps",
    changes="a U-Net of 28,000 parameters on small images, trained on the data set itself without averaging its "
    "weights; 5 steps back from t* in place of 100; the network knows no step above t*",
    make=lambda parts: DiffPure(parts.network, parts.net),
    training=Training(
        settings={
            DEFAULT: _BASE,
            "digits": replace(_BASE, epochs=20, batch_size=64, learning_rate=4e-3),
            "cifar10": replace(_BASE, epochs=100, width=64, reverse_steps=100, learning_rate=2e-4),
        },
        build=_build,
        problem=DiffPureProblem,
        family=DENOISERS,
    ),
    refuse=refuse_all_but_image_classes,
    max_samples=20,
)
