"""Standard accuracy, or mean squared error, of a backbone and its defenses, a row per sample."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from otad_ray.cip import Status
from otad_ray.data import Batch
from otad_ray.defenses import KNN, OTAD, Defense
from otad_ray.evaluation.records.relative_error import relative_error
from otad_ray.evaluation.records.verification import UNSOLVED
from otad_ray.stages import stage

NET = "net"
KNN_NAME = "knn"
# The class predicted for a row whose solve failed: none, so never counted as right. In regression it is NaN.
NO_PREDICTION = -1


@torch.no_grad()
def evaluate_batch(
    batch: Batch, knn: KNN, otads: Mapping[str, OTAD], others: Mapping[str, Defense] | None = None
) -> pa.Table:
    """Predictions of KNN, its backbone (the net), OTADs over the same backbone, and others that solve nothing.

    Columns: id, label, prediction_<name> (a class, or a value where the labels are float); status, relaxations and
    relative_error of the first OTAD. The status is `interrupted` where any of them was: the row is tried again.
    """
    backbone = knn.backbone
    regression = batch.y.is_floating_point()
    with stage("model"):
        features = backbone.features(backbone.embed(batch.x))
        net_outputs = backbone.head(features)
    predictions = {NET: _predicted(net_outputs, regression), KNN_NAME: _predicted(knn(batch.x), regression)}
    solutions = {name: otad.integrate(batch.x)[1] for name, otad in otads.items()}
    for name, solution in solutions.items():
        unsolved = torch.isin(solution.status, torch.tensor([int(status) for status in UNSOLVED]))
        with stage("model"):
            predicted = _predicted(backbone.head(solution.feature), regression)
        predictions[name] = predicted.masked_fill(unsolved, torch.nan if regression else NO_PREDICTION)
    for name, other in (others or {}).items():
        predictions[name] = _predicted(other(batch.x), regression)
    first = next(iter(solutions.values()))
    columns: dict[str, Tensor] = {"id": batch.ids, "label": batch.y}
    columns |= {f"prediction_{name}": values for name, values in predictions.items()}
    columns |= {"relaxations": first.relaxations, "relative_error": relative_error(features, first.feature)}
    interrupted = torch.stack([solution.status == Status.INTERRUPTED for solution in solutions.values()]).any(0)
    status = first.status.masked_fill(interrupted, int(Status.INTERRUPTED))
    statuses = [Status(code).label for code in status.tolist()]
    return pa.table({**{name: values.numpy() for name, values in columns.items()}, "status": statuses})


def _predicted(outputs: Tensor, regression: bool) -> Tensor:
    return outputs[:, 0] if regression else outputs.argmax(1)


@dataclass
class StandardMetrics:
    """Sums over evaluated rows, for means that do not need the rows.

    correct: right predictions by name, of classes. squared_error: by name, of values, over the rows with a prediction.
    """

    rows: int = 0
    correct: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    squared_error: dict[str, float] = field(default_factory=dict)
    relative_error: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Add the rows of `evaluate_batch`."""
        labels = table["label"].to_numpy()
        self.rows += len(table)
        for column in table.column_names:
            if column.startswith("prediction_"):
                self._add_predictions(column.removeprefix("prediction_"), table[column].to_numpy(), labels)
        self.relative_error += float(table["relative_error"].to_numpy().sum())
        self.statuses.update(table["status"].to_pylist())

    def _add_predictions(self, name: str, values: np.ndarray, labels: np.ndarray) -> None:
        if labels.dtype.kind != "f":
            self.correct[name] += int((values == labels).sum())
            return
        there = np.isfinite(values)
        self.predicted[name] += int(there.sum())
        errors = np.square(values[there].astype(np.float64) - labels[there])
        self.squared_error[name] = self.squared_error.get(name, 0.0) + float(errors.sum())

    def metrics(self) -> dict[str, float]:
        """Accuracies as fractions or mean squared errors, mean relative error, and shares of rows by status.

        What predicted nothing at all has no squared error.
        """
        unsolved = sum(self.statuses[status.label] for status in UNSOLVED)
        return {
            **{f"accuracy_{name}": count / self.rows for name, count in self.correct.items()},
            **{
                f"mse_{name}": total / self.predicted[name]
                for name, total in self.squared_error.items()
                if self.predicted[name]
            },
            "relative_error": self.relative_error / self.rows,
            "share_relaxed": self.statuses[Status.RELAXED.label] / self.rows,
            "share_infeasible": self.statuses[Status.INFEASIBLE.label] / self.rows,
            "share_unsolved": unsolved / self.rows,
        }


@torch.no_grad()
def evaluation_records(batch: Batch, defenses: Mapping[str, Defense], *, solved_by: str, net: str) -> pa.Table:
    otads = {name: item for name, item in defenses.items() if isinstance(item, OTAD)}
    others = {name: item for name, item in defenses.items() if name not in (net, "knn", *otads)}
    return evaluate_batch(batch, defenses["knn"], otads, others)  # type: ignore[arg-type]
