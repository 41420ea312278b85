"""Gaussian classes: the paper's synthetic data, whose best possible accuracy is known."""

import re
from functools import lru_cache, partial

import numpy as np

from otad_ray.data.definition import ArraySource, DataSet
from otad_ray.errors import InputError

_PREFIX = "gaussian_classes"
_GRAMMAR = re.compile(rf"{_PREFIX}(?:_(?P<std>\d+(?:\.\d+)?))?(?:_(?P<classes>\d+))?")
_DEFAULT_STD, _DEFAULT_CLASSES = 0.3, 10
_MAX_CLASSES = 1000
_DIMENSION = 128
_ROWS = {"train": 50_000, "test": 10_000}
_MEANS, _NOISE, _BAYES = 0, {"train": 1, "test": 2}, 3
# A share of n independent draws has a standard error of at most 1 / (2 sqrt(n)): here 5e-4.
_BAYES_DRAWS = 1_000_000
_BAYES_BATCH = 20_000


def is_gaussian(name: str) -> bool:
    """Whether a data set's name asks for Gaussian classes."""
    return name == _PREFIX or name.startswith(f"{_PREFIX}_")


def gaussian_classes(name: str = _PREFIX) -> DataSet:
    """`gaussian_classes[_STD[_CLASSES]]`, 0.3 and 10 by default: the paper's Section on limitations, Table XIV.

    Class means are uniform on the unit sphere of dimension 128, rows normal about them with standard deviation STD in
    each direction. Rows take the classes in turn, so the classes are balanced. STD scales the same noise.
    """
    std, num_classes = _parse(name)
    return DataSet(
        name=name,
        task="classification",
        class_names=tuple(str(label) for label in range(num_classes)),
        shape=(_DIMENSION,),
        bounds=None,
        eps_unit="norm on raw vectors, whose class means have l2 norm 1",
        source=ArraySource("generated", partial(_draw, std, num_classes)),
        bayes_accuracy=partial(bayes_accuracy, std, num_classes),
    )


def class_means(num_classes: int) -> np.ndarray:
    """Points uniform on the unit sphere, float64 (classes, 128)."""
    means = np.random.default_rng([_MEANS, num_classes]).standard_normal((num_classes, _DIMENSION))
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@lru_cache
def bayes_accuracy(std: float, num_classes: int) -> float:
    """Accuracy of the nearest mean, the Bayes classifier, by Monte Carlo: standard error at most 5e-4."""
    # Directions outside the span of the means change all distances alike.
    _, means = np.linalg.qr(class_means(num_classes).T)
    half_norms = (means**2).sum(0) / 2
    generator = np.random.default_rng([_BAYES, num_classes])
    correct = 0
    for start in range(0, _BAYES_DRAWS, _BAYES_BATCH):
        labels = np.arange(start, start + _BAYES_BATCH) % num_classes
        rows = means.T[labels] + std * generator.standard_normal((_BAYES_BATCH, len(means)))
        correct += int((np.argmax(rows @ means - half_norms, axis=1) == labels).sum())
    return correct / _BAYES_DRAWS


def _draw(std: float, num_classes: int, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.arange(_ROWS[part]) % num_classes
    x = np.random.default_rng([_NOISE[part], num_classes]).standard_normal((len(labels), _DIMENSION), dtype=np.float32)
    x *= np.float32(std)
    x += class_means(num_classes).astype(np.float32)[labels]
    return np.arange(len(labels)), x, labels


def _parse(name: str) -> tuple[float, int]:
    match = _GRAMMAR.fullmatch(name)
    if match is None:
        raise InputError(f"unknown data set {name!r}: need {_PREFIX}[_STD[_CLASSES]], as in {_PREFIX}_0.5_20")
    std, num_classes = float(match["std"] or _DEFAULT_STD), int(match["classes"] or _DEFAULT_CLASSES)
    if std == 0:
        raise InputError(f"data set {name!r}: need a standard deviation > 0, got {std}")
    if not 2 <= num_classes <= _MAX_CLASSES:
        raise InputError(f"data set {name!r}: need 2 to {_MAX_CLASSES} classes, got {num_classes}")
    return std, num_classes
