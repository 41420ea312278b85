"""The code of a page of docs/: its files, its changes to files, and its commands."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_SECONDS = 600
_FENCE = re.compile(r"^```(?P<info>.+?)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="(.+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after the fence, and what is between the fences."""

    info: str
    text: str

    @property
    def title(self) -> str | None:
        """The file that a block of Python is, or None for a snippet."""
        found = _TITLE.search(self.info)
        return found.group(1) if found else None


def blocks(page: Path) -> list[Block]:
    return [Block(found["info"], found["text"]) for found in _FENCE.finditer(page.read_text())]


def commands(page: Path, info: str) -> list[str]:
    """The lines of the shell blocks of this kind: `sh`, or `sh slow`."""
    return [line for block in blocks(page) if block.info == info for line in block.text.splitlines()]


def apply(page: Path, root: Path) -> None:
    """Write the page's files below root and change those that its diffs name, in the order of the page."""
    for block in blocks(page):
        if block.title is not None:
            path = root / block.title
            assert not path.exists(), f"{page.name} says that {block.title} is new"
            path.write_text(block.text)
        elif block.info == "diff":
            _change(root, block.text)


def run(command: str, folder: Path) -> str:
    """Run a command of a page in a folder that holds a copy of the package; what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OTAD_STORAGE": str(folder / "storage"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _change(root: Path, diff: str) -> None:
    """`--- path`, then hunks separated by `@@`: each must be found exactly once."""
    head, _, body = diff.partition("\n")
    path = root / head.removeprefix("--- ")
    for hunk in re.split(r"^@@\n", body, flags=re.MULTILINE):
        before, after = ("".join(_side(hunk, sign)) for sign in "-+")
        content = path.read_text()
        assert content.count(before) == 1, f"{path} holds this {content.count(before)} times:\n{before}"
        path.write_text(content.replace(before, after))


def _side(hunk: str, sign: str) -> Iterator[str]:
    for line in hunk.splitlines(keepends=True):
        # Editors strip the blank of an empty line.
        if line == "\n":
            yield line
        elif line[0] in (" ", sign):
            yield line[1:]
