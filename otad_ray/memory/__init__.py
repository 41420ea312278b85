"""The neighbor memory: exact search over keys, and the points and features that are integrated."""

from otad_ray.memory.approximation import approximate_feature, net_inputs
from otad_ray.memory.columns import make_column, make_list_column
from otad_ray.memory.compression import average_pieces, check_compression, cluster_points
from otad_ray.memory.integration import (
    IntegrationConfig,
    Neighborhood,
    integrate_neighbors,
    neighborhoods,
    search_neighbors,
)
from otad_ray.memory.labels import (
    RETRYABLE_LABELS,
    label_features,
    label_positions,
    label_rows,
    label_schema,
    label_weights,
)
from otad_ray.memory.neighbor_memory import NeighborMemory
from otad_ray.memory.potential import FittedPotentials, PotentialConfig, fit_graph, measure_graph_rows, move_pieces
from otad_ray.memory.search import DEFAULT_SEARCH, SEARCHES, SearchName, name_search, nearest_others
from otad_ray.memory.search.verification import Verification

__all__ = [
    "DEFAULT_SEARCH",
    "RETRYABLE_LABELS",
    "SEARCHES",
    "FittedPotentials",
    "IntegrationConfig",
    "NeighborMemory",
    "Neighborhood",
    "PotentialConfig",
    "SearchName",
    "Verification",
    "approximate_feature",
    "average_pieces",
    "check_compression",
    "cluster_points",
    "fit_graph",
    "integrate_neighbors",
    "label_features",
    "label_positions",
    "label_rows",
    "label_schema",
    "label_weights",
    "make_column",
    "make_list_column",
    "measure_graph_rows",
    "move_pieces",
    "name_search",
    "nearest_others",
    "neighborhoods",
    "net_inputs",
    "search_neighbors",
]
