"""Standard accuracy, or mean squared error, summed over the records of an evaluation."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from otad_ray.cip import Status
from otad_ray.evaluation.records.verification import UNSOLVED


@dataclass
class StandardMetrics:
    """Sums over evaluated rows, for means that do not need the rows.

    Attributes:
        rows: number of rows.
        correct: right predictions by name, of classes.
        predicted: rows with a prediction by name, of values.
        squared_error: by name, of values, over the rows with a prediction.
        relative_error: over all rows.
        statuses: rows by status.
    """

    rows: int = 0
    correct: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    squared_error: dict[str, float] = field(default_factory=dict)
    relative_error: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Add the rows of `evaluation_records`."""
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
        """Return accuracies as fractions or mean squared errors, the mean relative error, and shares by status.

        A defense that predicted nothing at all has no squared error.
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
