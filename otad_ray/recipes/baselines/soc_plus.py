"""Skew orthogonal convolutions in the catalog of baselines."""

from dataclasses import replace

from otad_ray.defenses.baselines.soc_plus import SOC_NETS, LipConvNet, SocConfig, SocPlus
from otad_ray.recipes.baselines.entry import DEFAULT, BaselineEntry, Training, refuse_all_but_image_classes
from otad_ray.training.baselines.soc_plus import SocProblem, SocSettings

_BASE = SocSettings(epochs=5, batch_size=256, learning_rate=3e-3, weight_decay=0.0)


def _build(settings: SocSettings, shape: tuple[int, ...], num_outputs: int) -> LipConvNet:
    """Return a new net."""
    sizes = {name: getattr(settings, name) for name in ("patch_size", "width", "num_blocks", "depth", "scale")}
    return LipConvNet(SocConfig(shape=shape, num_outputs=num_outputs, **sizes))


ENTRY = BaselineEntry(
    name="soc_plus",
    paper="Singla and Feizi 2022, Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100",
    source="the paper and its code: LipConvNet-5n with 32 channels, SGD with rate 0.1 and decay 5e-4 over 200 epochs, "
    "5 terms of the series in training, filters scaled to 0.7, Householder activations, normalized last layer",
    changes="convolutions wrap around the image, so that the norm of a layer is exact; 20 terms and float64 in "
    "evaluation; certificates are divided by the proven product of norms; on MNIST a net of 4 convolutions, AdamW, 5 "
    "epochs",
    make=lambda parts: SocPlus(parts.network),
    training=Training(
        settings={
            DEFAULT: _BASE,
            "digits": replace(_BASE, epochs=8, batch_size=64, patch_size=1, depth=1, learning_rate=2e-2),
            "cifar10": SocSettings(
                optimizer="sgd",
                learning_rate=0.1,
                weight_decay=5e-4,
                epochs=200,
                augmentation="crop_flip",
                patch_size=1,
                width=32,
                num_blocks=5,
                depth=5,
            ),
        },
        build=_build,
        problem=SocProblem,
        family=SOC_NETS,
    ),
    refuse=refuse_all_but_image_classes,
)
