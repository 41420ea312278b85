"""The data sets by name. To add one, add an entry."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from otad_ray.data.definition import ArraySource, DataSet, ParquetSource
from otad_ray.data.image_archives import fetch_cifar10, fetch_fashion_mnist, fetch_tiny_imagenet
from otad_ray.data.images import fetch_mnist, image_pixels, load_digits, raw_pixels
from otad_ray.data.own.h5ad import own_h5ad
from otad_ray.data.own.parquet import own_parquet
from otad_ray.data.single_cell import CITESEQ_TYPES, EPS_UNIT, fetch_citeseq, read_citeseq
from otad_ray.data.splits import grouped_split, grouped_tenth, random_split, stratified_split
from otad_ray.data.synthetic import gaussian_classes, is_gaussian
from otad_ray.data.tables import WINE_FEATURES, TableSource, fetch_wine, read_wine, standardize
from otad_ray.data.tiny_imagenet_classes import TINY_IMAGENET_CLASSES
from otad_ray.errors import InputError
from otad_ray.locations import resolve_path

DEFAULT_LABEL_COLUMN = "label"

_DIGITS = tuple(str(digit) for digit in range(10))
_PIXELS = "norm on pixels scaled to [0, 1]"
_WINE = "norm on features over their standard deviation in the training part"
# As the paper's Table V: 1279 rows to train on.
_WINE_TEST_ROWS = 320


def _tiny_imagenet(name: str, classes: tuple[str, ...]) -> DataSet:
    return DataSet(
        name=name,
        task="classification",
        class_names=classes,
        shape=(3, 64, 64),
        bounds=(0.0, 1.0),
        eps_unit=_PIXELS,
        source=ParquetSource(
            decode=image_pixels((3, 64, 64)), fetch=partial(fetch_tiny_imagenet, classes=classes, name=name)
        ),
    )


_ALL = (
    DataSet(
        name="digits",
        task="classification",
        class_names=_DIGITS,
        shape=(1, 8, 8),
        bounds=(0.0, 1.0),
        eps_unit=_PIXELS,
        source=ArraySource("scikit-learn", load_digits),
    ),
    DataSet(
        name="mnist",
        task="classification",
        class_names=_DIGITS,
        shape=(1, 28, 28),
        bounds=(0.0, 1.0),
        eps_unit=_PIXELS,
        source=ParquetSource(decode=raw_pixels((1, 28, 28)), fetch=fetch_mnist),
    ),
    DataSet(
        name="fashion_mnist",
        task="classification",
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        shape=(1, 28, 28),
        bounds=(0.0, 1.0),
        eps_unit=_PIXELS,
        source=ParquetSource(decode=raw_pixels((1, 28, 28)), fetch=fetch_fashion_mnist),
    ),
    DataSet(
        name="cifar10",
        task="classification",
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        shape=(3, 32, 32),
        bounds=(0.0, 1.0),
        eps_unit=_PIXELS,
        source=ParquetSource(decode=image_pixels((3, 32, 32)), fetch=fetch_cifar10),
    ),
    _tiny_imagenet("tiny_imagenet_20", TINY_IMAGENET_CLASSES[:20]),
    _tiny_imagenet("tiny_imagenet", TINY_IMAGENET_CLASSES),
    DataSet(
        name="wine_quality_red",
        task="regression",
        class_names=(),
        shape=(len(WINE_FEATURES),),
        bounds=None,
        eps_unit=_WINE,
        source=TableSource(
            folder="wine_quality_red",
            fetch=fetch_wine,
            read=read_wine,
            split=partial(random_split, num_test=_WINE_TEST_ROWS),
            scale=standardize,
        ),
    ),
    # 240 of the 1599 wines repeat an earlier one: here no part holds a wine of another.
    DataSet(
        name="wine_quality_red_grouped",
        task="regression",
        class_names=(),
        shape=(len(WINE_FEATURES),),
        bounds=None,
        eps_unit=_WINE,
        source=TableSource(
            folder="wine_quality_red",
            fetch=fetch_wine,
            read=read_wine,
            split=partial(grouped_split, num_test=_WINE_TEST_ROWS),
            scale=standardize,
        ),
        validation=grouped_tenth,
    ),
    # Without the classes Mouse (spiked-in cells of another species) and Unknown: neither is a cell type of the sample.
    DataSet(
        name="citeseq_cbmc",
        task="classification",
        class_names=CITESEQ_TYPES,
        shape=(500,),
        bounds=None,
        eps_unit=EPS_UNIT,
        source=TableSource(folder="citeseq_cbmc", fetch=fetch_citeseq, read=read_citeseq, split=stratified_split),
    ),
    gaussian_classes(),
)

DATA_SETS: Mapping[str, DataSet] = {definition.name: definition for definition in _ALL}


def data_set(name: str, *, label_column: str = DEFAULT_LABEL_COLUMN, allow_copies: bool = False) -> DataSet:
    """Return the data set called `name`, or the user's own at the path `name`.

    A name of the catalog comes first; else what holds a slash, ends with .h5ad or is a directory is a path. Gaussian
    classes take parameters: `gaussian_classes_STD_CLASSES`.

    Args:
        name: a name or a path.
        label_column: of the user's own data: its column of classes or targets.
        allow_copies: of the user's own directory: whether a file may be a copy of another one, which is refused else,
            because a net would be tested on rows that it was trained on.

    Raises:
        InputError: for an unknown name, which lists the known ones; and for data that cannot be read.
    """
    path = _own_path(name)
    if path is not None and path.suffix != ".h5ad":
        return own_parquet(path, label_column, allow_copies=allow_copies)
    if allow_copies:
        raise InputError(f"allow_copies is for a directory of your own, not for the data set {name!r}; leave it out")
    if path is not None:
        return own_h5ad(path, label_column)
    if label_column != DEFAULT_LABEL_COLUMN:
        raise InputError(f"label_column {label_column!r} is for your own data, not for the data set {name!r}")
    if name in DATA_SETS:
        return DATA_SETS[name]
    if is_gaussian(name):
        return gaussian_classes(name)
    raise InputError(
        f"unknown data set {name!r}; known: {', '.join(DATA_SETS)}, or the path of your own directory or .h5ad file"
    )


def absolute_name(name: str) -> str:
    """Return the name of a data set such that every process finds the same: a path is made absolute."""
    path = _own_path(name)
    return name if path is None else str(path)


def _own_path(name: str) -> Path | None:
    if name in DATA_SETS or not ("/" in name or name.endswith(".h5ad") or Path(name).is_dir()):
        return None
    return resolve_path(name, "the data set")
