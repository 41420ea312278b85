"""PNG files inside a page: smaller, and only as many as it has room for."""

from base64 import b64encode
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image

from otad_ray.pages.layout import Picture

_WIDTH = 1200
_COLORS = 128


def embed_pictures(pictures: Iterable[Picture], directory: Path, room: int) -> dict[str, str]:
    """Return pictures as `data:` addresses by the names of their files, the first ones that there is room for.

    Args:
        pictures: in the order in which they are shown.
        directory: where their files lie.
        room: characters that all addresses may have together.
    """
    addresses: dict[str, str] = {}
    for picture in pictures:
        address = _encode_picture(directory / picture.file)
        if len(address) <= room:
            addresses[picture.file] = address
            room -= len(address)
    return addresses


def _encode_picture(path: Path) -> str:
    """Return a PNG file as a `data:` address, with fewer colors and no wider than a page."""
    buffer = BytesIO()
    with Image.open(path) as image:
        shown = image.convert("RGB")
    if shown.width > _WIDTH:
        shown = shown.resize((_WIDTH, round(shown.height * _WIDTH / shown.width)))
    shown.quantize(_COLORS).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
