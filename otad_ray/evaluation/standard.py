"""Standard accuracy of a backbone and its defenses, a row per sample."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor

from otad_ray.cip import Status
from otad_ray.data import Batch
from otad_ray.defenses import KNN, OTAD
from otad_ray.evaluation.metrics import relative_error

NET = "net"
KNN_NAME = "knn"
_UNSOLVED = (Status.FAILED, Status.INTERRUPTED)
# The prediction of a row whose solve failed: no class, so never counted as right.
NO_PREDICTION = -1


@torch.no_grad()
def evaluate_batch(batch: Batch, knn: KNN, otads: Mapping[str, OTAD]) -> pa.Table:
    """Predictions of KNN, its backbone (the net) and OTADs over the same backbone.

    Columns: id, label, prediction_<name>; status, relaxations and relative_error of the first OTAD.
    """
    backbone = knn.backbone
    features = backbone.features(backbone.embed(batch.x))
    predictions = {NET: backbone.head(features).argmax(1), KNN_NAME: knn(batch.x).argmax(1)}
    solutions = {name: otad.integrate(batch.x)[1] for name, otad in otads.items()}
    for name, solution in solutions.items():
        unsolved = torch.isin(solution.status, torch.tensor([int(status) for status in _UNSOLVED]))
        predicted = backbone.head(solution.feature).argmax(1)
        predictions[name] = torch.where(unsolved, NO_PREDICTION, predicted)
    first = next(iter(solutions.values()))
    columns: dict[str, Tensor] = {"id": batch.ids, "label": batch.y}
    columns |= {f"prediction_{name}": values for name, values in predictions.items()}
    columns |= {"relaxations": first.relaxations, "relative_error": relative_error(features, first.feature)}
    statuses = [Status(code).label for code in first.status.tolist()]
    return pa.table({**{name: values.numpy() for name, values in columns.items()}, "status": statuses})


@dataclass
class StandardAccuracy:
    """Sums over evaluated rows, for means that do not need the rows."""

    rows: int = 0
    correct: dict[str, int] = field(default_factory=dict)
    relative_error: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Add the rows of `evaluate_batch`."""
        labels = table["label"].to_numpy()
        self.rows += len(table)
        for column in table.column_names:
            if column.startswith("prediction_"):
                name = column.removeprefix("prediction_")
                self.correct[name] = self.correct.get(name, 0) + int((table[column].to_numpy() == labels).sum())
        self.relative_error += float(table["relative_error"].to_numpy().sum())
        self.statuses.update(table["status"].to_pylist())

    def metrics(self) -> dict[str, float]:
        """Accuracies as fractions, mean relative error, and shares of relaxed, infeasible and unsolved rows."""
        unsolved = sum(self.statuses[status.label] for status in _UNSOLVED)
        return {
            **{f"accuracy_{name}": count / self.rows for name, count in self.correct.items()},
            "relative_error": self.relative_error / self.rows,
            "share_relaxed": self.statuses[Status.RELAXED.label] / self.rows,
            "share_infeasible": self.statuses[Status.INFEASIBLE.label] / self.rows,
            "share_unsolved": unsolved / self.rows,
        }
