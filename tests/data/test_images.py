"""Images as bytes: JPEG, PNG and raw pixels of one size, and refusals of the rest."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from otad_ray.data.images import image_pixels, image_shape

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def decode(*images: object, shape: tuple[int, int, int] = (3, 5, 7)) -> np.ndarray:
    return image_pixels(shape)(pa.table({"image": pa.array(images)}))


def test_png_and_raw_pixels_are_the_same_tensor() -> None:
    expected = PIXELS.transpose(2, 0, 1)
    decoded = decode(encode(Image.fromarray(PIXELS)), expected.tobytes())
    assert decoded.dtype == np.float32
    for image in decoded:
        np.testing.assert_allclose(image, expected / 255, atol=1e-7)


def test_jpeg_of_a_smooth_image_is_near() -> None:
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    decoded = decode(encode(Image.fromarray(smooth), "JPEG"), shape=(3, 32, 32))
    np.testing.assert_allclose(decoded[0], smooth.transpose(2, 0, 1) / 255, atol=0.03)


def test_gray_and_transparent_images_become_rgb() -> None:
    gray, clear = Image.fromarray(PIXELS[:, :, 0]), Image.fromarray(PIXELS).convert("RGBA")
    decoded = decode(encode(gray), encode(clear))
    np.testing.assert_allclose(decoded[0], np.repeat(PIXELS[None, :, :, 0], 3, axis=0) / 255, atol=1e-7)
    np.testing.assert_allclose(decoded[1], PIXELS.transpose(2, 0, 1) / 255, atol=1e-7)


def test_a_file_with_as_many_bytes_as_pixels_is_still_a_file() -> None:
    image = encode(Image.new("RGB", (16, 16), (10, 200, 30)))
    image += b"\0" * (3 * 16 * 16 - len(image))
    np.testing.assert_allclose(decode(image, shape=(3, 16, 16))[0, :, 3, 3] * 255, [10, 200, 30], atol=1e-4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (encode(Image.new("RGB", (7, 6))), "needs images of 5 x 7 .* found an image of 6 x 7"),
        (encode(Image.new("RGB", (5, 7))), "found an image of 7 x 5"),
        (bytes(104), "found 104 bytes that are neither JPEG nor PNG"),
        (encode(Image.new("RGB", (7, 5)))[:40], "cannot be decoded"),
        (encode(Image.fromarray(np.zeros((5, 7), np.uint16))), "needs 8-bit images, found mode I;16"),
    ],
    ids=["taller", "turned", "raw", "truncated", "16 bits"],
)
def test_refusals(image: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(image)


def test_refuses_columns_without_bytes() -> None:
    with pytest.raises(ValueError, match="needs bytes, found a str"):
        decode("image.png")


def test_shapes() -> None:
    assert image_shape(bytes(784)) == (1, 28, 28)
    assert image_shape(bytes(3072)) == (3, 32, 32)
    assert image_shape(encode(Image.new("L", (9, 4)))) == (3, 4, 9)
    with pytest.raises(ValueError, match="found 785 bytes"):
        image_shape(bytes(785))
    with pytest.raises(ValueError, match="found 0 bytes"):
        image_shape(b"")
