"""Search for the nearest keys of a memory: exact, by our own search or a FAISS index, or approximate by request."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from otad_ray.errors import InputError
from otad_ray.memory.search.exact import ExactSearch, Nearest, leave_out, nearest_others
from otad_ray.memory.search.names import DEFAULT_SEARCH, SEARCHES, SearchName, name_search

__all__ = [
    "DEFAULT_SEARCH",
    "SEARCHES",
    "ExactSearch",
    "Search",
    "SearchName",
    "leave_out",
    "name_search",
    "nearest_others",
    "open_search",
]


class Search(Protocol):
    """Finds neighbors."""

    def nearest(self, queries: Tensor, count: int) -> Nearest:
        """Return positions and distances (B, count) for queries (B, E), as `ExactSearch.nearest` does."""
        ...


def open_search(
    name: SearchName, keys: Tensor, largest_key_norm: float, exact: ExactSearch, directory: Path, *, digest: Any
) -> Search:
    """Return the search of a name; an index that it needs is built beside the keys if it is missing.

    Args:
        name: what is asked for.
        keys: (N, E) float32.
        largest_key_norm: bound on their norms.
        exact: our own search over them.
        directory: of the memory.
        digest: of the memory's arrays, of JSON types.

    Raises:
        InputError: for an index that cannot be had, or that is exact or approximate where the other was asked for.
    """
    if name.faiss_index is None:
        return exact
    # FAISS is loaded only where it is asked for.
    from otad_ray.memory.search.faiss_index import ApproximateFaissSearch, ExactFaissSearch, is_exact, open_index

    index = open_index(directory, name.faiss_index, keys, digest)
    if is_exact(index):
        if name.approximate:
            raise InputError(f"the FAISS index {name.faiss_index!r} is exact: leave out --approximate")
        return ExactFaissSearch(index, keys, largest_key_norm, exact)
    if not name.approximate:
        raise InputError(
            f"the FAISS index {name.faiss_index!r} may miss neighbors: add --approximate if that is what you want, or "
            "take an exact one, Flat or PCA<dimension>,FlatL2Panorama16"
        )
    return ApproximateFaissSearch(index, keys, exact)
