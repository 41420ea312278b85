"""Which files of a user's folder hold its rows, and how their names divide them into train and test."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from otad_ray.data.own.copies import refuse_copies
from otad_ray.errors import InputError

# Words that say a split, in the name of a file or a folder, as the Hugging Face Hub reads them.
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
_SPLIT_OF_WORD: Mapping[str, str] = {word: split for split, words in _WORDS.items() for word in words}
_OTHER_ENDINGS = (
    ".parq",
    ".pq",
    ".parquet",
    ".parquet.gz",
    ".parquet.zst",
    ".csv",
    ".tsv",
    ".arrow",
    ".feather",
    ".jsonl",
)
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """The files of a data set.

    Attributes:
        parts: the files of "train" and of "test", or all of them under "" if their names do not divide them.
        names: folders in which the names of classes are looked for.
        description: how they are divided, a phrase; empty if nothing divides them.
        left_out: what else lies there and is not read, a phrase each.
    """

    parts: Mapping[str, tuple[Path, ...]]
    names: tuple[Path, ...]
    description: str
    left_out: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        return tuple(file for files in self.parts.values() for file in files)


def find_layout(folder: Path, *, allow_copies: bool) -> FileLayout:
    """Find the Parquet files of a folder, and the parts that the names of files and folders say.

    Recognized are, in this order: folders for the splits (`train/`, `Test/`, `validation/`); file names that say a
    split (`train-00000-of-00001.parquet`, `test.parquet`); and files that no name divides. They lie in the folder
    itself, or in `data/` below it. Hidden and temporary files are skipped.

    Args:
        folder: the user's folder.
        allow_copies: whether one file may be a copy of another.

    Returns:
        The layout; every part has at least one file.

    Raises:
        InputError: for a folder without Parquet files, for names that leave open which split they mean, and for copies.
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder of Parquet files that holds it, or an .h5ad file")
    place = folder
    if not _has_rows(folder) and (folder / "data").is_dir() and _has_rows(folder / "data"):
        place = folder / "data"
    layout = _by_folders(place) or _by_file_names(place)
    if not allow_copies:
        refuse_copies(layout.parts)
    names = tuple(dict.fromkeys((folder, place)))
    return FileLayout(parts=layout.parts, names=names, description=layout.description, left_out=layout.left_out)


def find_split(word: str) -> str | None:
    """Return the split that a word means, "train", "test" or "validation"; None for any other word."""
    return _SPLIT_OF_WORD.get(word.lower())


def _by_folders(place: Path) -> FileLayout | None:
    """Return the layout of a place with folders for the splits; None if it has neither train nor test among them."""
    folders = _find_split_folders(place)
    if not folders.keys() & {"train", "test"}:
        return None
    folders.setdefault("train", place / "train")
    test, description = _choose_test(folders)
    folders.setdefault(test, place / test)
    parts = {"train": _files(folders["train"]), "test": _files(folders[test])}
    read = {folders["train"], folders[test]}
    left_out = [
        *_describe_others(place, read),
        *(note for used in sorted(read) for note in _describe_others(used, set())),
    ]
    beside = [path.name for path in _parquet_files(place)]
    if beside:
        left_out.append(f"{_shorten(beside)} beside the folders")
    return FileLayout(parts=parts, names=(), description=f"by folders{description}", left_out=tuple(left_out))


def _find_split_folders(place: Path) -> dict[str, Path]:
    """Return the folder of each split; one that is called exactly as the split comes before others."""
    found: dict[str, list[Path]] = {}
    for path in _visible(place):
        split = find_split(path.name.removesuffix(".parquet")) if path.is_dir() else None
        if split is not None:
            found.setdefault(split, []).append(path)
    folders = {}
    for split, paths in found.items():
        exact = [path for path in paths if path.name == split] or paths
        if len(exact) > 1:
            raise InputError(
                f"{place} has several folders for {split}: {_shorten(path.name for path in paths)}; join them"
            )
        folders[split] = exact[0]
    return folders


def _by_file_names(place: Path) -> FileLayout:
    """Return the layout of a place whose files lie side by side, divided by their names if these say a split."""
    files = _files(place)
    left_out = _describe_others(place, set())
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of_name(path.stem) or "", []).append(path)
    found = set(by_split)
    if not found & {"test", "validation"} or len(found) == 1:
        return FileLayout(parts={"": tuple(files)}, names=(), description="", left_out=tuple(left_out))
    if "" in found or "train" not in found:
        unclear = _shorten(path.name for path in by_split.get("", files))
        held_out = _shorten(path.name for split in ("test", "validation") for path in by_split.get(split, ()))
        raise InputError(
            f"{place}: {held_out} names a split, but of {unclear} it is open whether its rows are trained on or tested "
            "on; call files train-*.parquet and test-*.parquet, or put them into train/ and test/"
        )
    test, description = _choose_test(by_split)
    parts = {"train": tuple(by_split["train"]), "test": tuple(by_split[test])}
    if test != "validation" and "validation" in by_split:
        left_out.append(
            f"{_shorten(path.name for path in by_split['validation'])} (our validation is a tenth of train)"
        )
    return FileLayout(parts=parts, names=(), description=f"by file names{description}", left_out=tuple(left_out))


def _choose_test(splits: Iterable[str]) -> tuple[str, str]:
    """Return which split is the test part, and what to say of it: a published validation part, if there is no test."""
    if "test" not in splits and "validation" in splits:
        return "validation", "; test is the published validation part"
    return "test", ""


def _files(folder: Path) -> tuple[Path, ...]:
    """Return the Parquet files in a folder, by name; InputError if there are none."""
    files = _parquet_files(folder)
    if files:
        return tuple(files)
    others = _describe_others(folder, set()) if folder.is_dir() else []
    hive = [path.name for path in _visible(folder) if path.is_dir() and "=" in path.name] if folder.is_dir() else []
    if hive:
        raise InputError(
            f"{folder} is divided into folders such as {hive[0]}/, whose name is a column; write it into the "
            "files, as a column"
        )
    found = f" (found {'; '.join(others[:_SHOWN])})" if others else ""
    raise InputError(
        f"{folder} holds no *.parquet file{found}; a data set is a folder of them, to be split, "
        "or with train/ and test/"
    )


def _parquet_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in _visible(folder) if path.name.endswith(".parquet") and not path.is_dir())


def _has_rows(folder: Path) -> bool:
    """Return whether a folder holds Parquet files, or folders for the splits."""
    return bool(_parquet_files(folder)) or any(
        path.is_dir() and find_split(path.name.removesuffix(".parquet")) for path in _visible(folder)
    )


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, without hidden and temporary files."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_tmp", "_temporary")))


def _describe_others(place: Path, read: set[Path]) -> list[str]:
    """Return what of a folder is not read, though it may hold rows."""
    notes = []
    odd = [
        path.name
        for path in _visible(place)
        if path.is_file()
        and path.name.lower().endswith(_OTHER_ENDINGS)
        and not path.name.endswith(".parquet")
        and path.name != "labels.csv"
    ]
    if odd:
        notes.append(f"{_shorten(odd)} (need the ending .parquet)")
    for path in _visible(place):
        inside = sum(1 for _ in path.rglob("*.parquet")) if path.is_dir() and path not in read else 0
        if inside:
            notes.append(f"{path.name}/ ({inside} Parquet files)")
    return notes


def _split_of_name(stem: str) -> str | None:
    """Return the one split that the words of a file's name say; None if they say none, or two."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", stem)
    splits = {split for word in words if (split := find_split(word))}
    return splits.pop() if len(splits) == 1 else None


def _shorten(names: Iterable[str]) -> str:
    """Return a few of many names."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
