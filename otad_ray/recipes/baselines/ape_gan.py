"""APE-GAN in the catalog of baselines."""

from dataclasses import replace

from otad_ray.defenses.baselines.ape_gan import APE_GANS, ApeGan, ApeGanConfig, ApeGanNetworks
from otad_ray.recipes.baselines.entry import (
    DEFAULT,
    BaselineEntry,
    BaselineParts,
    Training,
    refuse_all_but_image_classes,
)
from otad_ray.training.baselines.ape_gan import ApeGanProblem, ApeGanSettings

_PUBLISHED = ApeGanSettings()


def _build(settings: ApeGanSettings, shape: tuple[int, ...], num_outputs: int) -> ApeGanNetworks:
    """Return a new generator and discriminator."""
    return ApeGanNetworks(ApeGanConfig(shape=shape, width=settings.width))


def _make(parts: BaselineParts) -> ApeGan:
    return ApeGan(parts.network.generator, parts.net)


ENTRY = BaselineEntry(
    name="ape_gan",
    paper="Shen et al. 2017, APE-GAN: adversarial perturbation elimination with GAN",
    source="the paper and its code: widths 64 and 128, 0.7 MSE + 0.3 adversarial loss, FGSM at linf 0.15 (MNIST), "
    "0.01 (CIFAR-10)",
    changes="AdamW with its usual momenta in place of Adam with 0.5; on MNIST and digits a quarter of the channels and "
    "a larger rate; both networks take their step at once",
    make=_make,
    training=Training(
        settings={
            DEFAULT: replace(_PUBLISHED, width=16, epochs=4, learning_rate=1e-3),
            "digits": replace(_PUBLISHED, width=16, epochs=40, batch_size=64, learning_rate=2e-3),
            "cifar10": replace(_PUBLISHED, eps=0.01, epochs=20),
        },
        build=_build,
        problem=ApeGanProblem,
        family=APE_GANS,
        needs_net=True,
    ),
    refuse=refuse_all_but_image_classes,
)
