"""Images: how they are decoded and written, and the digits and MNIST."""

import hashlib
import io
import tempfile
from collections.abc import Iterator
from itertools import islice
from math import isqrt, prod
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.data.rows import Decoder
from otad_ray.errors import InputError

_ROWS_PER_GROUP = 5000

# SHA-256 of the 8-bit pixels and labels of both parts, in the official order: whatever the download route, only the
# published images in the published order are accepted.
_MNIST_DIGESTS = {
    "train": (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    "test": (
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
}


def raw_pixels(shape: tuple[int, ...], column: str = "image") -> Decoder:
    """Decoder of 8-bit pixels stored as bytes: float32 (n, *shape) in [0, 1]."""
    size = prod(shape)

    def decode(table: pa.Table) -> np.ndarray:
        images = table[column].to_pylist()
        wrong = [image for image in images if not isinstance(image, bytes) or len(image) != size]
        if wrong:
            found = f"{len(wrong[0])} bytes" if isinstance(wrong[0], bytes) else f"a {type(wrong[0]).__name__}"
            raise ValueError(f"column {column!r} needs {size} bytes a sample (shape {shape}), found {found}")
        pixels = np.frombuffer(b"".join(images), dtype=np.uint8)
        return pixels.reshape(-1, *shape).astype(np.float32) / 255

    return decode


def image_pixels(shape: tuple[int, int, int], column: str = "image") -> Decoder:
    """Decoder of images stored as JPEG, PNG or raw 8-bit pixels: float32 (n, 3, height, width) in [0, 1].

    JPEG and PNG become RGB. Raw pixels are in the order of `shape`: all of a channel, row by row, before the next. A
    copy of a data set that was compressed as JPEG on the way does not have the original's pixels.
    """

    def decode(table: pa.Table) -> np.ndarray:
        pixels = np.empty((len(table), *shape), dtype=np.float32)
        for position, image in enumerate(table[column].to_pylist()):
            pixels[position] = _pixels(image, shape, column)
        pixels /= 255
        return pixels

    return decode


def is_encoded(image: bytes) -> bool:
    """Whether the bytes are a JPEG or PNG file: told by their signature, as a file may have any length."""
    return image.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def image_shape(image: bytes) -> tuple[int, int, int]:
    """Channels, height and width of a JPEG or PNG file read as RGB, or of the raw pixels of a square image."""
    if is_encoded(image):
        channels, height, width = _decode_file(image, "image").shape
        return channels, height, width
    for channels in (1, 3):
        side = isqrt(len(image) // channels)
        if side and channels * side**2 == len(image):
            return channels, side, side
    raise ValueError(
        f"column 'image' needs JPEG, PNG or the raw pixels of square images, found {len(image)} bytes that are neither"
    )


def _pixels(image: object, shape: tuple[int, int, int], column: str) -> np.ndarray:
    if not isinstance(image, bytes):
        raise ValueError(f"column {column!r} needs bytes, found a {type(image).__name__}")
    if is_encoded(image):
        pixels = _decode_file(image, column)
        found = f"an image of {pixels.shape[1]} x {pixels.shape[2]}"
    else:
        pixels = np.frombuffer(image, dtype=np.uint8)
        found = f"{pixels.size} bytes that are neither JPEG nor PNG"
    if pixels.shape not in (shape, (prod(shape),)):
        raise ValueError(f"column {column!r} needs images of {shape[1]} x {shape[2]} (shape {shape}), found {found}")
    return pixels.reshape(shape)


def _decode_file(image: bytes, column: str) -> np.ndarray:
    """8-bit RGB (3, height, width) of a JPEG or PNG file."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"column {column!r} needs 8-bit images, found mode {opened.mode}")
            return np.asarray(opened.convert("RGB")).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"column {column!r} holds an image that cannot be decoded ({error})") from error


def load_digits(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's 1797 digits, 8 x 8 with values 0..16 scaled to [0, 1]; 360 are test, stratified, seed 0."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    bunch = load()
    train, test = train_test_split(np.arange(len(bunch.target)), test_size=360, stratify=bunch.target, random_state=0)
    ids = np.sort(train if part == "train" else test)
    return ids, bunch.images[ids, None] / 16, bunch.target[ids].astype(np.int64)


def fetch_mnist(directory: Path) -> None:
    """MNIST from OpenML by scikit-learn, checked against the digests of the published images."""
    from sklearn.datasets import fetch_openml

    try:
        with tempfile.TemporaryDirectory(dir=directory) as download:
            bunch = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff", data_home=download)
    except Exception as error:
        raise InputError(
            f"mnist could not be fetched from OpenML ({type(error).__name__}: {error}); set OTAD_DATA to a folder that "
            "holds mnist/train/*.parquet and mnist/test/*.parquet with columns id, image (784 bytes) and label"
        ) from error
    pixels, labels = bunch.data.astype(np.uint8), bunch.target.astype(np.int64)
    for part, rows in (("train", slice(0, 60000)), ("test", slice(60000, None))):
        write_pixels(directory / part, pixels[rows], labels[rows], expected=_MNIST_DIGESTS[part])


def write_pixels(directory: Path, pixels: np.ndarray, labels: np.ndarray, *, expected: tuple[str, str]) -> None:
    """Write images (n, D) uint8 and labels (n,) as Parquet; InputError unless their SHA-256 are as `expected`."""
    contents = {"images": pixels, "labels": labels.astype(np.uint8)}
    for (name, array), digest in zip(contents.items(), expected, strict=True):
        found = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        if found != digest:
            raise InputError(
                f"{directory.name} part: the {name} have SHA-256 {found}, expected {digest}; nothing was kept"
            )
    images = zip((row.tobytes() for row in pixels), labels.tolist(), strict=True)
    write_images(directory, images, size=pixels.shape[1])


def write_images(directory: Path, images: Iterator[tuple[bytes, int]], *, size: int = -1) -> None:
    """Write images with their labels as Parquet, a row group at a time; ids are 0 .. n-1 in the order given.

    size: bytes of every image, or -1 where they differ.
    """
    directory.mkdir(parents=True)
    schema = pa.schema({"id": pa.int64(), "image": pa.binary(size), "label": pa.int64()})
    with pq.ParquetWriter(directory / "part-0.parquet", schema, compression="zstd") as writer:
        for table in _tables(images, schema):
            writer.write_table(table)


def _tables(images: Iterator[tuple[bytes, int]], schema: pa.Schema) -> Iterator[pa.Table]:
    start = 0
    while rows := list(islice(images, _ROWS_PER_GROUP)):
        ids = np.arange(start, start + len(rows))
        yield pa.table([ids, [image for image, _ in rows], [label for _, label in rows]], schema=schema)
        start += len(rows)
