"""docs/architecture.md: folders are those of the package, in the order that imports keep to, and the way is real."""

import configparser
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "otad_ray"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()


def list_documented() -> list[list[str]]:
    """Return the packages and modules of each row of the table of folders."""
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    return [re.findall(r"`([\w.]+)/?`", row) for row in rows if "in `otad_ray/`" not in row]


def test_folders_are_those_of_the_package() -> None:
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}
    documented = [name for row in list_documented() for name in row]
    assert set(documented) == there - {"__init__.py"}
    assert len(documented) == len(set(documented))


def test_folders_stand_in_the_order_of_imports() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(REPOSITORY / ".importlinter")
    layers = contracts["importlinter:contract:layers"]["layers"].split("\n")
    heights = {
        name.strip().removeprefix("otad_ray."): height
        for height, layer in enumerate(reversed(layers))
        for name in layer.split("|")
        if name.strip()
    }
    found = [heights[name.removesuffix(".py")] for row in list_documented() for name in row]
    assert found == sorted(found)


def test_the_way_of_a_row_passes_at_most_eight_files() -> None:
    steps = re.findall(r"^(\d)\. `([\w/.]+)`: (.*)$", PAGE, re.MULTILINE)
    assert 0 < len(steps) <= 8
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    for _, path, text in steps:
        source = (PACKAGE / path).read_text()
        named = re.findall(r"`([A-Za-z_]+)`", text)
        defined = [name for name in named if re.search(rf"(?:def|class) {name}\b", source)]
        assert defined, f"{path} defines none of {named}"


def test_the_page_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 110
