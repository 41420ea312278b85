"""What results say that rest on an approximate search: its name, and how many of the neighbors it finds."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from otad_ray.data import Split
from otad_ray.defenses import MemoryDefense, load_defense
from otad_ray.memory import NeighborMemory, SearchName
from otad_ray.recipes.workspace import Workspace

logger = logging.getLogger(__name__)

# Queries that the recall is measured on.
_QUERIES = 256
# Column of rows, field of manifests and identities.
SEARCH = "search"


def identify_search(search: str) -> dict[str, str]:
    """Return what results depend on of a search: nothing, unless it is approximate."""
    return {SEARCH: search} if SearchName.parse(search).approximate else {}


def mark_rows(table: pa.Table, search: str) -> pa.Table:
    """Return rows with a column that names the search, if it is approximate."""
    for name, value in identify_search(search).items():
        table = table.append_column(name, pa.array([value] * len(table), pa.string()))
    return table


def describe_label_search(memory: NeighborMemory, num_neighbors: int) -> dict[str, Any]:
    """Return and log the recall of an approximate search of a memory's own rows; nothing for an exact one."""
    positions = np.linspace(0, len(memory) - 1, min(_QUERIES, len(memory))).astype(np.int64)
    # A row's own key is left out of its neighbors; it is found nearly always, and must not count as one.
    return _describe(memory, memory.keys[torch.from_numpy(positions)], num_neighbors, left_out=1)


def describe_query_search(workspace: Workspace, split: Split, directories: Iterable[str]) -> dict[str, Any]:
    """Return and log the recall of an approximate search for rows of a split; nothing for an exact one.

    Args:
        workspace: the preset.
        split: the rows that results are of.
        directories: of defenses; where they have several memories, the least recall is told.
    """
    if not identify_search(workspace.search):
        return {}
    rows = workspace.rows(split)
    positions = np.unique(np.linspace(0, len(rows) - 1, min(_QUERIES, len(rows))).astype(np.int64))
    inputs = rows.take(positions).x
    found: dict[Path, dict[str, Any]] = {}
    for directory in dict.fromkeys(directories):
        defense = load_defense(directory, search=workspace.search)
        memory = getattr(defense, "memory", None)
        if isinstance(memory, NeighborMemory) and memory.directory not in found:
            with torch.no_grad():
                keys = defense.keys(inputs) if isinstance(defense, MemoryDefense) else inputs.flatten(1)
            found[memory.directory] = _describe(memory, keys, workspace.preset.integration.num_neighbors)
    return min(found.values(), key=lambda described: described[SEARCH]["recall"], default={})


def say_search(described: Mapping[str, Any]) -> str:
    """Return a line for reports on an approximate search; empty for an exact one."""
    if not described:
        return ""
    search = described[SEARCH]
    return (
        f"Neighbors are approximate: {search['name']} finds {100 * search['recall']:.2f} % of them, and nothing is "
        "certified."
    )


def recall_metric(described: Mapping[str, Any]) -> dict[str, float]:
    """Return the recall as a metric of a tracked run, if there is one."""
    return {"search_recall": described[SEARCH]["recall"]} if described else {}


def _describe(memory: NeighborMemory, queries: Tensor, num_neighbors: int, *, left_out: int = 0) -> dict[str, Any]:
    """Return and log the recall of a memory's search.

    Args:
        memory: the memory.
        queries: keys (B, E).
        num_neighbors: K.
        left_out: keys beside the K that are found and then left out.
    """
    if not memory.search_name.approximate:
        return {}
    found, _ = memory.search(queries, num_neighbors + left_out)
    wrong = int(memory.verify(queries, found).wrong.sum())
    recall = max(0.0, 1 - wrong / (len(queries) * num_neighbors))
    logger.warning(
        "the search is approximate: %s finds %.2f %% of the %d nearest keys (%d queries), and nothing is certified",
        memory.search_name,
        100 * recall,
        num_neighbors,
        len(queries),
    )
    name = str(memory.search_name)
    return {SEARCH: {"name": name, "recall": recall, "queries": len(queries), "neighbors": num_neighbors}}
