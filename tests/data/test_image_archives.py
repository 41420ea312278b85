"""The publishers' archives, small ones of the same layout: what is read from them, and what is refused."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from otad_ray.data import data_set
from otad_ray.data.image_archives import fetch_cifar10, fetch_fashion_mnist, fetch_tiny_imagenet
from otad_ray.data.images import image_pixels
from otad_ray.errors import InputError

CLASSES = ("n01", "n02", "n03")


def read(directory: Path) -> dict:
    (path,) = directory.iterdir()
    return pq.read_table(path).to_pydict()


def idx_files(publisher, part: str, pixels: np.ndarray, labels: np.ndarray) -> tuple:
    images = struct.pack(">4i", 2051, len(pixels), 28, 28) + pixels.tobytes()
    classes = struct.pack(">2i", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
    return tuple(
        publisher.publish(f"{part}-{name}.gz", gzip.compress(content))
        for name, content in (("images", images), ("labels", classes))
    )


def test_fashion_mnist(publisher, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    files, digests, made = {}, {}, {}
    for part, count in (("train", 5), ("test", 3)):
        pixels = generator.integers(0, 256, (count, 784), dtype=np.uint8)
        labels = generator.integers(0, 10, count)
        made[part] = pixels, labels
        files[part] = idx_files(publisher, part, pixels, labels)
        digests[part] = tuple(hashlib.sha256(array.astype(np.uint8).tobytes()).hexdigest() for array in made[part])
    fetch_fashion_mnist(tmp_path, files=files, digests=digests)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]
    for part, (pixels, labels) in made.items():
        rows = read(tmp_path / part)
        assert rows["id"] == list(range(len(labels)))
        assert rows["image"] == [image.tobytes() for image in pixels]
        assert rows["label"] == labels.tolist()


def test_fashion_mnist_of_other_content_is_refused(publisher, tmp_path: Path) -> None:
    files = {"train": idx_files(publisher, "train", np.zeros((2, 784), np.uint8), np.zeros(2))}
    with pytest.raises(InputError, match="the images have SHA-256"):
        fetch_fashion_mnist(tmp_path, files=files)
    assert list(tmp_path.iterdir()) == []


def test_cifar10(publisher, tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 256, (6, 2, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, batch in zip(names, records, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = batch.nbytes
            archive.addfile(member, io.BytesIO(batch.tobytes()))
    fetch_cifar10(tmp_path, archive=publisher.publish("cifar.tar.gz", packed.getvalue()))
    train, test = read(tmp_path / "train"), read(tmp_path / "test")
    assert train["id"] == list(range(10))
    assert train["label"] == records[:5, :, 0].ravel().tolist()
    assert test["image"] == [record[1:].tobytes() for record in records[5]]
    # Red, green and blue planes: the channels of the tensor.
    (path,) = (tmp_path / "test").iterdir()
    pixels = image_pixels((3, 32, 32))(pq.read_table(path))
    np.testing.assert_allclose(pixels[1, 2, 4, 7], records[5, 1, 1 + 2 * 1024 + 4 * 32 + 7] / 255, rtol=1e-6)


def tiny_archive(shade: dict[str, int], per_class: int) -> bytes:
    """Images of one gray value a class: 10 more in the validation part."""

    def jpeg(value: int) -> bytes:
        stream = io.BytesIO()
        Image.new("L", (64, 64), value).save(stream, "JPEG")
        return stream.getvalue()

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        root = "tiny-imagenet-200"
        archive.writestr(f"{root}/wnids.txt", "\n".join(reversed(shade)) + "\n")
        lines = []
        for wnid, value in shade.items():
            for number in range(per_class):
                archive.writestr(f"{root}/train/{wnid}/images/{wnid}_{number}.JPEG", jpeg(value))
            archive.writestr(f"{root}/train/{wnid}/{wnid}_boxes.txt", "")
            archive.writestr(f"{root}/val/images/val_{value}.JPEG", jpeg(value + 10))
            lines.append(f"val_{value}.JPEG\t{wnid}\t0\t0\t62\t62")
        archive.writestr(f"{root}/val/val_annotations.txt", "\n".join(lines) + "\n")
        archive.writestr(f"{root}/test/images/test_0.JPEG", jpeg(0))
    return packed.getvalue()


def test_tiny_imagenet(publisher, tmp_path: Path) -> None:
    archive = publisher.publish("tiny.zip", tiny_archive({"n01": 20, "n02": 80, "n03": 140}, per_class=20))
    for name in ("two", "again"):
        (tmp_path / name).mkdir()
    fetch_tiny_imagenet(tmp_path / "two", classes=CLASSES[:2], name="tiny", archive=archive)
    train, test = read(tmp_path / "two" / "train"), read(tmp_path / "two" / "test")
    assert train["id"] == list(range(40))
    assert sorted(train["label"]) == [0] * 20 + [1] * 20
    assert train["label"] != sorted(train["label"])
    (path,) = (tmp_path / "two" / "train").iterdir()
    pixels = image_pixels((3, 64, 64))(pq.read_table(path))
    assert pixels.shape == (40, 3, 64, 64)
    np.testing.assert_allclose(pixels[:, 0, 0, 0] * 255, [(20, 80)[label] for label in train["label"]], atol=2)
    assert sorted(test["label"]) == [0, 1]
    fetch_tiny_imagenet(tmp_path / "again", classes=CLASSES[:2], name="tiny", archive=archive)
    assert read(tmp_path / "again" / "train") == train


def test_tiny_imagenet_with_other_classes_is_refused(publisher, tmp_path: Path) -> None:
    archive = publisher.publish("tiny.zip", tiny_archive({"n01": 20, "n05": 80}, per_class=1))
    with pytest.raises(InputError, match=r"first classes are \['n01', 'n05'\]"):
        fetch_tiny_imagenet(tmp_path, classes=CLASSES[:2], name="tiny", archive=archive)


def test_labels_of_tiny_imagenet_are_the_sorted_wordnet_ids() -> None:
    everything, twenty = (data_set(name).class_names for name in ("tiny_imagenet", "tiny_imagenet_20"))
    assert len(set(everything)) == 200
    assert list(everything) == sorted(everything)
    assert twenty == everything[:20]
