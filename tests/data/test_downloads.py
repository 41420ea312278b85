"""Downloads: what arrives whole is used, anything else is refused by name and leaves nothing."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from otad_ray.data import DataFolders, data_set, open_split
from otad_ray.data.downloads import Remote, download
from otad_ray.data.tables import fetch_wine
from otad_ray.errors import InputError

CONTENT = bytes(range(256)) * 400


def test_a_file_arrives(publisher, tmp_path: Path) -> None:
    path = download(publisher.publish("a.bin", CONTENT), tmp_path, instead="a")
    assert path.read_bytes() == CONTENT
    assert download(replace(publisher.publish("b.bin", CONTENT), hash=None), tmp_path, instead="b").name == "b.bin"


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda publisher, remote: publisher.cut.add("a.bin"), "IncompleteRead|Connection"),
        (lambda publisher, remote: publisher.files.update({"a.bin": CONTENT[1:]}), "hash"),
        (lambda publisher, remote: publisher.files.clear(), "404"),
    ],
    ids=["half", "other content", "gone"],
)
def test_what_is_refused(publisher, tmp_path: Path, spoil, problem: str) -> None:
    remote = publisher.publish("a.bin", CONTENT)
    spoil(publisher, remote)
    with pytest.raises(InputError, match=problem) as caught:
        download(remote, tmp_path, instead="a/*.parquet")
    assert remote.url in str(caught.value)
    assert "set OTAD_DATA to a folder that holds a/*.parquet" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ConnectionError"):
        download(Remote("http://127.0.0.1:1/a.bin", None), tmp_path, instead="a/*.parquet")


def test_a_download_cut_short_leaves_no_cache(publisher, tmp_path: Path) -> None:
    remote = publisher.publish("winequality-red.csv", CONTENT)
    publisher.cut.add("winequality-red.csv")
    wine = data_set("wine_quality_red")
    wine = replace(wine, source=replace(wine.source, fetch=partial(fetch_wine, file=remote)))
    with pytest.raises(InputError, match="could not be fetched"):
        open_split(wine, "train", DataFolders(cache=tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []
