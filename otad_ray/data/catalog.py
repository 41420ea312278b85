"""The data sets by name. To add one, add an entry."""

from collections.abc import Mapping

from otad_ray.data.definition import DataSet, EmbeddedSource, ParquetSource
from otad_ray.data.images import fetch_mnist, load_digits, raw_pixels
from otad_ray.errors import InputError

_DIGITS = tuple(str(digit) for digit in range(10))

_ALL = (
    DataSet(
        name="digits",
        task="classification",
        class_names=_DIGITS,
        shape=(1, 8, 8),
        bounds=(0.0, 1.0),
        eps_unit="norm on pixels scaled to [0, 1]",
        source=EmbeddedSource("scikit-learn", load_digits),
    ),
    DataSet(
        name="mnist",
        task="classification",
        class_names=_DIGITS,
        shape=(1, 28, 28),
        bounds=(0.0, 1.0),
        eps_unit="norm on pixels scaled to [0, 1]",
        source=ParquetSource(decode=raw_pixels((1, 28, 28)), fetch=fetch_mnist),
    ),
)

DATA_SETS: Mapping[str, DataSet] = {definition.name: definition for definition in _ALL}


def data_set(name: str) -> DataSet:
    """The data set called `name`; InputError lists the known ones."""
    if name not in DATA_SETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATA_SETS)}")
    return DATA_SETS[name]
