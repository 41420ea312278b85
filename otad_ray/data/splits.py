"""Fixed splits: the same rows in every run, for good."""

from collections.abc import Sequence

import numpy as np

from otad_ray.data.rows import Rows, load_all
from otad_ray.errors import InputError

_SEED = 0

# Positions of the training and of the test rows, ascending.
TrainTest = tuple[np.ndarray, np.ndarray]


def random_tenth(rows: Rows) -> np.ndarray:
    """A tenth of the rows by a seeded permutation: their positions."""
    return np.random.default_rng(_SEED).permutation(len(rows))[: len(rows) // 10]


def grouped_tenth(rows: Rows) -> np.ndarray:
    """As near a tenth of the rows as keeps rows with equal samples on one side: their positions."""
    return _whole_groups(load_all(rows).x.flatten(1).numpy(), len(rows) // 10)


def random_split(x: np.ndarray, y: np.ndarray, *, num_test: int) -> TrainTest:
    """`num_test` rows by a seeded permutation."""
    _check_size(len(y), num_test)
    return _rest_and(np.random.default_rng(_SEED).permutation(len(y))[:num_test], len(y))


def grouped_split(x: np.ndarray, y: np.ndarray, *, num_test: int) -> TrainTest:
    """As near `num_test` rows as keeps rows with equal samples x (n, D) on one side, whatever their targets."""
    _check_size(len(y), num_test)
    return _rest_and(_whole_groups(x, num_test), len(y))


def stratified_split(x: np.ndarray, y: np.ndarray) -> TrainTest:
    """A fifth of the rows, and of each class, is test."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=_SEED)
    return np.sort(train), np.sort(test)


def check_class_sizes(labels: np.ndarray, names: Sequence[str], *, origin: str) -> None:
    """InputError unless every class that occurs can be in both parts, and the test part can hold every class."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        lonely = names[classes[counts.argmin()]]
        raise InputError(f"{origin}: class {lonely!r} has 1 row, need at least 2 to split it; remove it or add rows")
    if len(labels) < 5 * len(classes):
        raise InputError(f"{origin}: {len(labels)} rows of {len(classes)} classes, need 5 a class to split them")


def _check_size(num_rows: int, num_test: int) -> None:
    if num_rows <= num_test:
        raise InputError(f"the data set has {num_rows} rows, need more than {num_test}, those of its test part")


def _whole_groups(samples: np.ndarray, size: int) -> np.ndarray:
    """Positions of groups of equal samples, in a seeded order of the groups, that fit into `size` rows."""
    _, group, counts = np.unique(samples, axis=0, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(counts), dtype=bool)
    for index in np.random.default_rng(_SEED).permutation(len(counts)):
        if counts[index] <= size:
            chosen[index] = True
            size -= counts[index]
    return np.flatnonzero(chosen[group.ravel()])


def _rest_and(test: np.ndarray, num_rows: int) -> TrainTest:
    return np.setdiff1d(np.arange(num_rows), test), np.sort(test)
