"""How a memory is searched, as a name that goes through options and to actors."""

from dataclasses import dataclass
from typing import Self

from otad_ray.errors import InputError

_TORCH, _FAISS, _APPROXIMATE = "torch", "faiss", "approximate"
# What people may ask for with --search.
SEARCHES = (_TORCH, _FAISS)
DEFAULT_SEARCH = _TORCH
DEFAULT_INDEX = "Flat"


@dataclass(frozen=True, kw_only=True)
class SearchName:
    """A way to search.

    Attributes:
        faiss_index: factory string of a FAISS index that proposes candidates; None for our own search.
        approximate: whether what the index proposes is taken as it is.
    """

    faiss_index: str | None = None
    approximate: bool = False

    def __str__(self) -> str:
        if self.faiss_index is None:
            return _TORCH
        return f"{_APPROXIMATE if self.approximate else _FAISS}:{self.faiss_index}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `torch`, `faiss`, `faiss:INDEX` or `approximate:INDEX`; InputError for anything else."""
        kind, _, index = name.partition(":")
        if name == _TORCH:
            return cls()
        if name == _FAISS:
            return cls(faiss_index=DEFAULT_INDEX)
        if index and kind in (_FAISS, _APPROXIMATE):
            return cls(faiss_index=index, approximate=kind == _APPROXIMATE)
        raise InputError(f"unknown search {name!r}; known: {', '.join(SEARCHES)}, faiss:INDEX and approximate:INDEX")


def name_search(search: str, faiss_index: str | None, *, approximate: bool) -> str:
    """Return the name of a search for what was asked for by options.

    Args:
        search: torch or faiss.
        faiss_index: factory string of the index; None for an exhaustive one.
        approximate: whether its answers may be wrong.

    Raises:
        InputError: for an unknown search, and for options of FAISS without it.
    """
    if search not in SEARCHES:
        raise InputError(f"unknown search {search!r}; known: {', '.join(SEARCHES)}")
    if search == _FAISS:
        return str(SearchName(faiss_index=faiss_index or DEFAULT_INDEX, approximate=approximate))
    if faiss_index is not None or approximate:
        raise InputError("--faiss-index and --approximate are for FAISS: add --search faiss, or leave them out")
    return search
