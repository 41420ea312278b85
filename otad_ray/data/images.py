"""Images: how they are decoded and written, and the digits and MNIST."""

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from math import isqrt, prod
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.data.parquet.rows import Decoder
from otad_ray.data.parquet.types import read_bytes
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
    """Return a decoder of 8-bit pixels stored as bytes: float32 (n, *shape) in [0, 1]."""
    size = prod(shape)

    def decode(table: pa.Table) -> np.ndarray:
        images = read_bytes(table[column])
        wrong = [image for image in images if not isinstance(image, bytes) or len(image) != size]
        if wrong:
            found = f"{len(wrong[0])} bytes" if isinstance(wrong[0], bytes) else f"a {type(wrong[0]).__name__}"
            raise ValueError(f"column {column!r} needs {size} bytes a sample (shape {shape}), found {found}")
        pixels = np.frombuffer(
            b"".join(_refuse_files(image, column, _FORMS_BESIDE_RAW) for image in images), dtype=np.uint8
        )
        return pixels.reshape(-1, *shape).astype(np.float32) / 255

    return decode


def image_pixels(shape: tuple[int, int, int], column: str = "image") -> Decoder:
    """Return a decoder of images stored as JPEG, PNG or raw 8-bit pixels: float32 (n, 3, height, width) in [0, 1].

    JPEG and PNG become RGB. Raw pixels are in the order of `shape`: all of a channel, row by row, before the next. A
    copy of a data set that was compressed as JPEG on the way does not have the original's pixels.
    """

    def decode(table: pa.Table) -> np.ndarray:
        pixels = np.empty((len(table), *shape), dtype=np.float32)
        for position, image in enumerate(read_bytes(table[column])):
            pixels[position] = _pixels(_refuse_files(image, column, _OTHER_FORMS), shape, column)
        pixels /= 255
        return pixels

    return decode


def is_encoded(image: bytes) -> bool:
    """Return whether the bytes are a JPEG or PNG file: their signature says it, as a file may have any length."""
    return image.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def image_shape(image: bytes | None) -> tuple[int, int, int]:
    """Return channels, height and width of a JPEG or PNG file read as RGB, or of the raw pixels of a square image.

    Raises:
        ValueError: for bytes that are none of these.
    """
    image = _refuse_files(image, "image", _OTHER_FORMS)
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


def _refuse_files(image: object, column: str, forms: Mapping[str, Callable[[bytes], bool]]) -> bytes:
    """Return the bytes; refuse files of some formats, which would pass for raw pixels if their length is a square."""
    if image is None:
        raise ValueError(f"column {column!r} holds an image without bytes, only its path; store the bytes of the file")
    if not isinstance(image, bytes):
        raise ValueError(f"column {column!r} needs bytes, found a {type(image).__name__}")
    form = next((name for name, is_form in forms.items() if is_form(image)), None)
    if form is not None:
        raise ValueError(f"column {column!r} holds {form}; need JPEG, PNG or raw 8-bit pixels, one form in all rows")
    return image


def _is_bmp(image: bytes) -> bool:
    # Two letters could be pixels; the length that follows them hardly.
    return image.startswith(b"BM") and int.from_bytes(image[2:6], "little") == len(image)


def _is_base64(image: bytes) -> bool:
    return len(image) % 4 == 0 and image.startswith(_BASE64_STARTS)


def _is_whole_jpeg(image: bytes) -> bool:
    # Three bytes could be pixels.
    return image.startswith(b"\xff\xd8\xff") and image[6:10] in (b"JFIF", b"Exif") and image.endswith(b"\xff\xd9")


# The first characters of PNG, JPEG, GIF and WebP files in base64.
_BASE64_STARTS = (b"iVBORw0KGgo", b"/9j/4", b"R0lGODlh", b"R0lGODdh", b"UklGR")
_OTHER_FORMS: Mapping[str, Callable[[bytes], bool]] = {
    "WebP files": lambda image: image.startswith(b"RIFF") and image[8:12] == b"WEBP",
    "GIF files": lambda image: image.startswith((b"GIF87a", b"GIF89a")),
    "BMP files": _is_bmp,
    "TIFF files": lambda image: image.startswith((b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08")),
    "AVIF or HEIC files": lambda image: image[4:8] == b"ftyp",
    "JPEG 2000 files": lambda image: image.startswith(b"\0\0\0\x0cjP  \r\n"),
    "JPEG XL files": lambda image: image.startswith(b"\0\0\0\x0cJXL \r\n"),
    "NumPy files": lambda image: image.startswith(b"\x93NUMPY"),
    "images as base64 text": _is_base64,
}
_FORMS_BESIDE_RAW = {
    **_OTHER_FORMS,
    "PNG files beside raw pixels": lambda image: image.startswith(b"\x89PNG\r\n\x1a\n"),
    "JPEG files beside raw pixels": _is_whole_jpeg,
}


def _pixels(image: bytes, shape: tuple[int, int, int], column: str) -> np.ndarray:
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
    images, labels, parts = _read_digits()
    ids = parts["train" if part == "train" else "test"]
    return ids.copy(), images[ids, None] / 16, labels[ids]


@cache
def _read_digits() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the images (1797, 8, 8), their labels, and the sorted ids of each part: parsed once, for all callers."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    bunch = load()
    train, test = train_test_split(np.arange(len(bunch.target)), test_size=360, stratify=bunch.target, random_state=0)
    return bunch.images, bunch.target.astype(np.int64), {"train": np.sort(train), "test": np.sort(test)}


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
