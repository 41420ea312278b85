"""The names of classes in a user's folder: labels.csv."""

import csv
import io
from pathlib import Path

from otad_ray.errors import InputError

LABELS_FILE = "labels.csv"
_ENCODING_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of classes 0 .. C-1 from a file with columns label and name.

    Args:
        path: the file, in UTF-8.

    Raises:
        InputError: naming the file and the line, or the encoding.
    """
    numbered = _read_rows(path)
    if not numbered or not {"label", "name"} <= set(numbered[0][1]):
        found = ", ".join(numbered[0][1]) if numbered else "nothing"
        raise InputError(f"{path} needs the columns label and name, it has {found}; separate them by a comma")
    header = numbered[0][1]
    names: dict[str, str] = {}
    labels = []
    for line, row in numbered[1:]:
        if len(row) > len(header):
            raise InputError(
                f"{path}, line {line}: {len(row)} values for {len(header)} columns; put the name into quotes"
            )
        values = dict(zip(header, row, strict=False))
        if "label" not in values or not values.get("name"):
            missing = (
                f"label {values['label']} has no name" if "label" in values else f"{', '.join(row)!r} has no label"
            )
            raise InputError(f"{path}, line {line}: {missing}; write both, separated by a comma")
        labels.append(values["label"])
        names[values["label"]] = values["name"]
    expected = [str(label) for label in range(len(labels))]
    if len(labels) < 2 or sorted(labels) != sorted(expected):
        raise InputError(f"{path} needs the labels 0 .. C-1, each once and at least 2, it has {', '.join(labels)}")
    return tuple(names[label] for label in expected)


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, with the numbers of their lines."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""))
    rows = []
    try:
        for row in reader:
            if row:
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise InputError(f"{path}, line {max(reader.line_num, 1)}: {error}; write the line anew") from error
    return rows


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    advice = "save it as UTF-8 (in Excel: CSV UTF-8)"
    for mark, encoding in _ENCODING_MARKS.items():
        if content.startswith(mark):
            raise InputError(f"{path} is in the encoding {encoding}; {advice}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: byte {content[error.start]:#x} is not in the encoding UTF-8, "
            f"perhaps Windows-1252; {advice}"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{path}, line {line}: holds a NUL character; {advice}")
    return text
