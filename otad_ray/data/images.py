"""Image data sets: decoders and fetchers."""

import hashlib
import tempfile
from math import prod
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
    directory.mkdir(parents=True)
    image = pa.array([row.tobytes() for row in pixels], pa.binary(pixels.shape[1]))
    table = pa.table({"id": np.arange(len(pixels)), "image": image, "label": labels})
    pq.write_table(table, directory / "part-0.parquet", compression="zstd", row_group_size=_ROWS_PER_GROUP)
