"""Adversarial training in the catalog: PGD and FGSM, in both norms, with both starts."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from otad_ray.data import DataSet
from otad_ray.defenses.baselines.small_conv import SmallConvConfig
from otad_ray.defenses.baselines.trained_net import CLASSIFIERS, TrainedNet
from otad_ray.recipes.baselines.entry import DEFAULT, BaselineEntry, Training, refuse_regression
from otad_ray.training import accuracy, mean_squared_error
from otad_ray.training.baselines.adversarial import AdversarialProblem, AdversarialSettings, find_examples

logger = logging.getLogger(__name__)

# Name of the metric that says whether a training collapsed: 1 or 0.
COLLAPSED = "collapsed"
# The training collapsed if an attack of many steps leaves less robust than one of a single step, by this much.
_COLLAPSE = 0.2
_MEASURED_STEPS = 20
_MEASURED_ROWS = 1000


def build_classifier(settings: AdversarialSettings, shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """Return a new net: the small convolutional one for images, a fully connected residual net for tables."""
    if len(shape) == 3:
        kind = CLASSIFIERS.find("small_conv")
        return kind.build(SmallConvConfig(shape=shape, num_outputs=num_outputs, width=settings.width))
    kind = CLASSIFIERS.find("fc_resnet")
    dimension = int(torch.Size(shape).numel())
    return kind.build(kind.config(dimension=dimension, num_outputs=num_outputs, num_blocks=settings.num_blocks))


def measure_robustness(
    net: nn.Module, inputs: Tensor, targets: Tensor, settings: AdversarialSettings
) -> dict[str, float]:
    """Return the accuracy of a net under one step and under many steps, at the eps that it was trained at.

    A net that was trained on single steps may have learned to hide from them: it is then robust to one step and not to
    many (catastrophic overfitting; Wong et al. 2020). The metric `collapsed` says so.

    Args:
        net: the trained net, in evaluation mode.
        inputs: held-out samples (N, *shape).
        targets: their targets (N,).
        settings: how the net was trained.
    """
    x, y = inputs[:_MEASURED_ROWS], targets[:_MEASURED_ROWS]
    if y.is_floating_point():
        return {
            "mse": mean_squared_error(net, x, y),
            "pgd_mse": mean_squared_error(net, _attack(net, x, y, settings), y),
        }
    one_step = replace(settings, steps=1, step_size=1.0, start="zero")
    clean = accuracy(net, inputs, targets)
    by_one = accuracy(net, find_examples(net, x, y, one_step), y)
    by_many = accuracy(net, _attack(net, x, y, settings), y)
    collapsed = by_one - by_many > _COLLAPSE
    if collapsed:
        logger.warning(
            "the training collapsed: held-out accuracy is %.1f %% under FGSM and %.1f %% under PGD at the same eps",
            100 * by_one,
            100 * by_many,
        )
    return {"accuracy": clean, "fgsm_accuracy": by_one, "pgd_accuracy": by_many, COLLAPSED: float(collapsed)}


def _attack(net: nn.Module, x: Tensor, y: Tensor, settings: AdversarialSettings) -> Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        many = replace(settings, steps=_MEASURED_STEPS, step_size=2.5 / _MEASURED_STEPS, start="uniform")
        return find_examples(net, x, y, many)


def _vary_by_data_set(base: AdversarialSettings, eps: Mapping[str, float]) -> dict[str, AdversarialSettings]:
    """Return the settings by data set: those of MNIST, with another eps, and a quick training on digits."""
    settings = {name: replace(base, eps=value) for name, value in eps.items()}
    settings["digits"] = replace(settings["digits"], epochs=30, batch_size=64, learning_rate=3e-3)
    return settings


def _make_entry(
    name: str,
    base: AdversarialSettings,
    eps: Mapping[str, float],
    *,
    regression: Mapping[str, AdversarialSettings] | None = None,
    paper: str,
    source: str,
    changes: str,
) -> BaselineEntry:
    training = Training(
        settings=_vary_by_data_set(base, eps) | dict(regression or {}),
        build=build_classifier,
        problem=AdversarialProblem,
        family=CLASSIFIERS,
        measure=measure_robustness,
    )
    return BaselineEntry(
        name=name,
        paper=paper,
        source=source,
        changes=changes,
        make=lambda parts: TrainedNet(parts.network),
        training=training,
        refuse=_refuse_nothing if regression else refuse_regression,
    )


def _refuse_nothing(definition: DataSet) -> None:
    return None


_LINF = {DEFAULT: 0.1, "digits": 0.1, "cifar10": 8 / 255, "tiny_imagenet": 4 / 255, "tiny_imagenet_20": 4 / 255}
_L2 = {DEFAULT: 2.0, "digits": 0.5, "cifar10": 0.5, "tiny_imagenet": 0.5, "tiny_imagenet_20": 0.5}
# FGSM-AT was published with eps 0.3 on MNIST, at which it collapses. At the other nets' 0.1, a training as short as
# these does not collapse, and would not show what the method is known for.
_FGSM_ZERO = {**_LINF, DEFAULT: 0.3, "digits": 0.2}
_FGSM_RANDOM = {**_LINF, "digits": 0.2}
_PGD = AdversarialSettings(epochs=8, batch_size=128, learning_rate=2e-3, weight_decay=1e-4)
# At the rate of PGD, the net becomes a constant.
_ONE_STEP = replace(_PGD, learning_rate=5e-4, steps=1, step_size=1.0, start="zero")
# The regression of Table V.
_WINE = AdversarialSettings(
    epochs=60, batch_size=64, optimizer="sgd", learning_rate=5e-3, norm="l2", eps=0.2, num_blocks=10
)
_REGRESSION = {"wine_quality_red": _WINE, "wine_quality_red_grouped": _WINE}
_NET = "The net is a small convolutional one for images, and a fully connected residual net for tables."

ENTRIES = (
    _make_entry(
        "pgd_at",
        _PGD,
        _LINF,
        regression=_REGRESSION,
        paper="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks",
        source="eps of the OTAD paper: linf 0.1 on MNIST, 8/255 on CIFAR-10, 4/255 on Tiny ImageNet; l2 0.2 in Table V",
        changes=f"10 steps of eps / 4 in place of 40 of 0.01. {_NET}",
    ),
    _make_entry(
        "pgd_at_l2",
        replace(_PGD, norm="l2"),
        _L2,
        paper="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks",
        source="eps in l2, since the paper reads its tables in l2: 2 on MNIST, 0.5 on CIFAR-10",
        changes=f"10 steps of eps / 4. {_NET}",
    ),
    _make_entry(
        "fgsm_at",
        _ONE_STEP,
        _FGSM_ZERO,
        paper="Goodfellow et al. 2015, Explaining and harnessing adversarial examples",
        source="a step of eps from the sample itself, with the eps of Wong et al. 2020 on MNIST (0.3)",
        changes=f"Known to collapse; it is saved all the same, and flagged. {_NET}",
    ),
    _make_entry(
        "fgsm_at_random",
        replace(_ONE_STEP, step_size=1.25, start="uniform"),
        _FGSM_RANDOM,
        paper="Wong et al. 2020, Fast is better than free",
        source="a step of 1.25 eps from a random point of the ball; eps 0.1 on MNIST as for pgd_at, 8/255 on CIFAR-10",
        changes=f"A cosine schedule in place of a cyclic one; it collapses with the published eps of 0.3. {_NET}",
    ),
)
