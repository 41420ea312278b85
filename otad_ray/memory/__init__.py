"""The neighbor memory: exact search over keys, and the points and features that are integrated."""

from otad_ray.memory.integration import IntegrationConfig, integrate_neighbors
from otad_ray.memory.labels import RETRYABLE_LABELS, label_features, label_rows, label_schema
from otad_ray.memory.neighbor_memory import NeighborMemory
from otad_ray.memory.search import SEARCHES, check_search, nearest_others

__all__ = [
    "RETRYABLE_LABELS",
    "SEARCHES",
    "IntegrationConfig",
    "NeighborMemory",
    "check_search",
    "integrate_neighbors",
    "label_features",
    "label_rows",
    "label_schema",
    "nearest_others",
]
