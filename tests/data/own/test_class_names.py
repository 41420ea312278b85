"""labels.csv: what cannot be read is refused by its encoding or its line."""

from pathlib import Path

import pytest

from otad_ray.data.own.class_names import read_class_names
from otad_ray.errors import InputError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,name\n0,Füchse\n1,Käfer\n".encode("cp1252"), r"line 2: byte 0xfc is not in the encoding UTF-8"),
        ("label,name\n0,Füchse\n1,Käfer\n".encode("utf-16"), r"is in the encoding UTF-16; save it as UTF-8"),
        (b"name,label\nfox,0\nbeetle\n", r"line 3: 'beetle' has no label"),
        (b"label,name\n0,fox\n1\n", r"line 3: label 1 has no name"),
        (b"label,name\n0," + b"x" * 200_000 + b"\n1,b\n", r"line 2: field larger than field limit"),
        (b"label,name\n0,fo\0x\n1,beetle\n", r"line 2: holds a NUL character"),
        (b"label,name\n0,fox\n1,beetle, red\n", r"line 3: 3 values for 2 columns; put the name into quotes"),
        (b"label;name\n0;fox\n1;beetle\n", r"it has label;name; separate them by a comma"),
        (b"label,name\n0.0,fox\n1.0,beetle\n", r"needs the labels 0 \.\. C-1"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"labels\.csv.*{message}"):
        read_class_names(path)


def test_names_may_be_quoted_and_lines_blank(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes('name,label\r\n"beetle, red",1\r\n\r\nFüchse,0\r\n'.encode())
    assert read_class_names(path) == ("Füchse", "beetle, red")
