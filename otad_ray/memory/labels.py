"""Labels for CIP-net: the leave-one-out convex integration of rows of a memory, as a table."""

import numpy as np
import pyarrow as pa
import torch

from otad_ray.cip import RETRYABLE, Status, center_displacement, combine_centers
from otad_ray.errors import InputError
from otad_ray.memory.integration import IntegrationConfig, integrate_neighbors
from otad_ray.memory.neighbor_memory import NeighborMemory

RETRYABLE_LABELS = frozenset(status.label for status in RETRYABLE)


def label_schema(num_neighbors: int, dimension: int, *, dense: bool) -> pa.Schema:
    """Columns of a label file.

    weights and neighbor_ids say the feature, which `label_features` gathers from the memory; `feature` itself is stored
    only in dense labels. smoothness_used and strong_convexity_used concern the potentials only.
    """
    columns = [
        pa.field("id", pa.int64()),
        pa.field("neighbor_ids", pa.list_(pa.int64(), num_neighbors)),
        pa.field("weights", pa.list_(pa.float32(), num_neighbors)),
        pa.field("potentials", pa.list_(pa.float64(), num_neighbors)),
        pa.field("value", pa.float64()),
        pa.field("smoothness_used", pa.float64()),
        pa.field("strong_convexity_used", pa.float64()),
        pa.field("relaxations", pa.int32()),
        pa.field("status", pa.string()),
        pa.field("residual", pa.float64()),
        pa.field("solver", pa.string()),
    ]
    if dense:
        columns.append(pa.field("feature", pa.list_(pa.float32(), dimension)))
    return pa.schema(columns)


@torch.no_grad()
def label_rows(
    memory: NeighborMemory, positions: np.ndarray, config: IntegrationConfig, *, dense: bool = False
) -> pa.Table:
    """Labels of the memory's rows at `positions` (n,), in that order; a row is never its own neighbor."""
    rows = torch.from_numpy(positions)
    ids, keys, points = memory.ids[rows], memory.keys[rows], memory.points[rows]
    index, solution = integrate_neighbors(memory, keys, points, config, exclude_ids=ids)
    schema = label_schema(config.num_neighbors, memory.features.shape[1], dense=dense)
    columns: dict[str, torch.Tensor | list[str]] = {
        "id": ids,
        "neighbor_ids": memory.ids[index],
        "weights": solution.weights,
        "potentials": solution.potentials,
        "value": solution.value,
        "smoothness_used": solution.smoothness_used,
        "strong_convexity_used": solution.strong_convexity_used,
        "relaxations": solution.relaxations,
        "status": [Status(code).label for code in solution.status.tolist()],
        "residual": solution.residual,
        "solver": [solution.solver] * len(ids),
        "feature": solution.feature,
    }
    return pa.table([_column(columns[field.name], field.type) for field in schema], schema=schema)


def label_features(memory: NeighborMemory, labels: pa.Table, config: IntegrationConfig) -> torch.Tensor:
    """Features (n, D) of label rows: `sum_k s_k w_k`, `w_k = z_k + a (x - x_k)`.

    memory and config are those the labels were made with. InputError for ids that the memory does not hold.
    """
    rows, neighbors = label_positions(memory, labels, config.num_neighbors)
    weights = label_weights(labels, config.num_neighbors)
    displacement = center_displacement(config.regularity, config.cross_term)
    return combine_centers(
        weights, memory.points[rows], memory.points[neighbors], memory.features[neighbors], displacement,
        memory.point_space,
    )  # fmt: skip


def label_positions(memory: NeighborMemory, labels: pa.Table, num_neighbors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions in the memory of label rows (n,) and of their neighbors (n, K); InputError for unknown ids."""
    order = memory.ids.argsort()
    sorted_ids = memory.ids[order]

    def positions(ids: np.ndarray) -> torch.Tensor:
        wanted = torch.from_numpy(ids.astype(np.int64))
        place = torch.searchsorted(sorted_ids, wanted).clamp_max(len(sorted_ids) - 1)
        if not torch.equal(sorted_ids[place], wanted):
            raise InputError(
                f"the labels name ids that {memory.directory} does not hold; give the memory they were made with"
            )
        return order[place]

    near = labels["neighbor_ids"].combine_chunks().flatten().to_numpy()
    return positions(labels["id"].to_numpy()), positions(near).view(len(labels), num_neighbors)


def label_weights(labels: pa.Table, num_neighbors: int) -> torch.Tensor:
    """Weights (n, K) float64 of label rows."""
    flat = labels["weights"].combine_chunks().flatten().to_numpy()
    return torch.from_numpy(flat.astype(np.float64)).view(len(labels), num_neighbors)


def _column(values: torch.Tensor | list[str], kind: pa.DataType) -> pa.Array:
    if not isinstance(values, torch.Tensor):
        return pa.array(values, kind)
    if pa.types.is_fixed_size_list(kind):
        flat = values.reshape(-1).numpy().astype(kind.value_type.to_pandas_dtype())
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), type=kind)
    return pa.array(values.numpy().astype(kind.to_pandas_dtype()), kind)
