"""Image data sets fetched from their publishers' archives."""

import gzip
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from otad_ray.data.downloads import Remote, download
from otad_ray.data.images import write_images, write_pixels
from otad_ray.errors import InputError

# SHA-256 of the 8-bit pixels and labels of both parts, in the official order.
_FASHION_MNIST_DIGESTS = {
    "train": (
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ),
    "test": (
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
}
_FASHION_MNIST = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
    "b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/"
)
FASHION_MNIST_FILES = {
    "train": (
        Remote(f"{_FASHION_MNIST}train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Remote(f"{_FASHION_MNIST}train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
    ),
    "test": (
        Remote(f"{_FASHION_MNIST}t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
        Remote(f"{_FASHION_MNIST}t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
CIFAR10_ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"
)
TINY_IMAGENET_ARCHIVE = Remote(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "md5:90528d7ca1a48142e341f4ef8d21d0de"
)

_PIXELS_PER_CIFAR_IMAGE = 3 * 32 * 32
_SHUFFLE_SEED = 0


def fetch_fashion_mnist(
    directory: Path,
    *,
    files: dict[str, tuple[Remote, Remote]] = FASHION_MNIST_FILES,
    digests: dict[str, tuple[str, str]] = _FASHION_MNIST_DIGESTS,
) -> None:
    """Fashion-MNIST from its publisher's repository, as raw pixels in the official order."""
    with tempfile.TemporaryDirectory(dir=directory) as downloads:
        for part, (images, labels) in files.items():
            pixels = _read_idx(_fetch(images, downloads, "fashion_mnist"), header=16).reshape(-1, 784)
            classes = _read_idx(_fetch(labels, downloads, "fashion_mnist"), header=8)
            write_pixels(directory / part, pixels, classes.astype(np.int64), expected=digests[part])


def fetch_cifar10(directory: Path, *, archive: Remote = CIFAR10_ARCHIVE) -> None:
    """CIFAR-10 from its publisher's binary archive, as raw pixels in the official order."""
    members = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    with (
        tempfile.TemporaryDirectory(dir=directory) as downloads,
        tarfile.open(_fetch(archive, downloads, "cifar10")) as opened,
    ):
        for part, names in members.items():
            write_images(directory / part, _cifar_images(opened, names), size=_PIXELS_PER_CIFAR_IMAGE)


def fetch_tiny_imagenet(
    directory: Path, *, classes: Sequence[str], name: str, archive: Remote = TINY_IMAGENET_ARCHIVE
) -> None:
    """Tiny ImageNet from its publisher's archive, as its JPEG files; its validation part is our test part.

    classes: WordNet ids, in the order of the labels. The archive is sorted by class, so rows are shuffled by a fixed
    seed and then numbered.
    """
    labels = {wnid: label for label, wnid in enumerate(classes)}
    with (
        tempfile.TemporaryDirectory(dir=directory) as downloads,
        zipfile.ZipFile(_fetch(archive, downloads, name)) as opened,
    ):
        _check_classes(opened, classes, archive.url)
        for part, files in (("train", _tiny_train(opened, labels)), ("test", _tiny_validation(opened, labels))):
            shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(len(files))
            chosen = [files[position] for position in shuffled]
            write_images(directory / part, ((opened.read(path), label) for path, label in chosen))


def _fetch(remote: Remote, downloads: str, name: str) -> Path:
    instead = f"{name}/train/*.parquet and {name}/test/*.parquet with columns id, image and label"
    return download(remote, Path(downloads), instead=instead)


def _read_idx(path: Path, *, header: int) -> np.ndarray:
    """Values of a gzipped file of the IDX format, whose header gives the sizes."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)


def _cifar_images(archive: tarfile.TarFile, names: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    """Each record is a byte of label, and the red, green and blue pixels of an image, each row by row."""
    for name in names:
        member = archive.extractfile(f"cifar-10-batches-bin/{name}")
        assert member is not None
        records = np.frombuffer(member.read(), dtype=np.uint8).reshape(-1, 1 + _PIXELS_PER_CIFAR_IMAGE)
        yield from ((record[1:].tobytes(), int(record[0])) for record in records)


def _check_classes(archive: zipfile.ZipFile, classes: Sequence[str], address: str) -> None:
    published = sorted(archive.read("tiny-imagenet-200/wnids.txt").decode().split())[: len(classes)]
    if published != list(classes):
        raise InputError(f"{address}: its first classes are {published[:3]} ..., expected {list(classes[:3])} ...")


def _tiny_train(archive: zipfile.ZipFile, labels: dict[str, int]) -> list[tuple[str, int]]:
    """Names of the training images, sorted, with their labels."""
    paths = sorted(name for name in archive.namelist() if "/train/" in name and name.endswith(".JPEG"))
    classes = [path.split("/")[-3] for path in paths]
    return [(path, labels[wnid]) for path, wnid in zip(paths, classes, strict=True) if wnid in labels]


def _tiny_validation(archive: zipfile.ZipFile, labels: dict[str, int]) -> list[tuple[str, int]]:
    """Names of the validation images, in the order of their list, with their labels."""
    root = "tiny-imagenet-200/val"
    lines = archive.read(f"{root}/val_annotations.txt").decode().splitlines()
    rows = [line.split("\t")[:2] for line in lines]
    return [(f"{root}/images/{file}", labels[wnid]) for file, wnid in rows if wnid in labels]
