"""Clean records: what defenses do with samples as they are. This side of the bracket needs no attack."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.certification import Certificate
from otad_ray.cip import Solution, Status
from otad_ray.data import Batch
from otad_ray.evaluation.records.schema import RecordStatus
from otad_ray.evaluation.records.verification import NO_PREDICTION, Outputs, ask_defense
from otad_ray.models import Backbone

# Status of a row whose defense solves nothing.
_OK = "ok"


def relative_error(reference: Tensor, features: Tensor) -> Tensor:
    """Return `RE = |R(x) - f(x)|^2 / |R(x)|^2` (B,), the paper's Section V.D, of features (B, D)."""
    return (reference - features).square().sum(1) / reference.square().sum(1)


@torch.no_grad()
def clean_records(
    defense: nn.Module,
    batch: Batch,
    *,
    net: Backbone | None = None,
    certificate: Certificate | None = None,
    linf_certificate: Certificate | None = None,
) -> pa.Table:
    """Ask a defense for samples, and return one record per sample.

    Args:
        defense: inputs (B, *shape) to logits (B, C).
        batch: ids (B,), samples (B, *shape) and labels (B,).
        net: the undefended net, whose features R(x) are the reference of the relative error.
        certificate: radii (B,) and methods; without one the radius is 0 and the method "".
        linf_certificate: radii (B,) in linf, of a defense that has a proof of its own there.

    Returns:
        Columns id, label, prediction, clean_correct, radius, method, relative_error (NaN without a net or a feature),
        status (of the solver, or "ok" for a defense that solves nothing) and error (""); and linf_radius, if there is a
        certificate in linf.
    """
    outputs = ask_defense(defense, batch.x, batch.ids)
    count = len(batch.y)
    columns: dict[str, Any] = {
        "id": batch.ids.cpu().numpy(),
        "label": batch.y.cpu().numpy(),
        **_predict(outputs, batch),
    }
    if batch.y.is_floating_point():
        columns["clean_correct"] = pa.nulls(count, pa.bool_())
    else:
        columns["clean_correct"] = columns["prediction"] == columns["label"]
    found = certificate or Certificate(torch.zeros(count, dtype=torch.float64), [""] * count)
    columns |= {"radius": found.radius.cpu().numpy(), "method": pa.array(found.method, pa.string())}
    if linf_certificate is not None:
        columns["linf_radius"] = linf_certificate.radius.cpu().numpy()
    columns["relative_error"] = _measure_error(outputs.feature, batch.x, net)
    return pa.table({**columns, "status": _list_statuses(outputs, count), "error": [""] * count})


def _measure_error(feature: Tensor | None, x: Tensor, net: Backbone | None) -> np.ndarray:
    """Return relative errors (B,), float64; NaN without a net, or without a feature of the net's own shape."""
    if feature is not None and net is not None:
        reference = net.features(net.embed(x))
        # The feature of a user's module may be of another kind, which cannot be compared.
        if reference.shape == feature.shape:
            return relative_error(reference, feature).double().cpu().numpy()
    return np.full(len(x), np.nan)


def failed_clean_records(batch: Batch, error: str) -> pa.Table:
    """Return the records of samples that the defense raised `error` on: not right, and with no radius."""
    count = len(batch.y)
    regression = batch.y.is_floating_point()
    return pa.table(
        {
            "id": batch.ids.cpu().numpy(),
            "label": batch.y.cpu().numpy(),
            "prediction": np.full(count, np.nan, np.float32) if regression else np.full(count, NO_PREDICTION),
            "clean_correct": pa.nulls(count, pa.bool_()) if regression else np.zeros(count, dtype=bool),
            "radius": np.zeros(count),
            "method": pa.array([""] * count, pa.string()),
            "relative_error": np.full(count, np.nan),
            "status": [RecordStatus.ATTACK_ERROR.value] * count,
            "error": [error] * count,
        }
    )


@torch.no_grad()
def evaluation_records(batch: Batch, defenses: Mapping[str, nn.Module], *, solved_by: str, net: str) -> pa.Table:
    """Ask several defenses for samples, and return one record per sample with the predictions of all.

    Args:
        batch: ids (B,), samples (B, *shape) and labels (B,).
        defenses: by name.
        solved_by: name of the defense whose solutions are recorded; it must solve something.
        net: name of the undefended net, whose feature is the reference of the relative error.

    Returns:
        Columns id, label, prediction_<name> of each defense; relaxations, relative_error and status of `solved_by`.
        The status is `interrupted` if any defense was: the row is then tried again.
    """
    answers = {name: ask_defense(defense, batch.x, batch.ids) for name, defense in defenses.items()}
    columns: dict[str, Any] = {"id": batch.ids.cpu().numpy(), "label": batch.y.cpu().numpy()}
    for name, outputs in answers.items():
        columns[f"prediction_{name}"] = _predict(outputs, batch)["prediction"]
    solved, reference = answers[solved_by], answers[net].feature
    assert isinstance(solved.solution, Solution)
    assert solved.feature is not None
    assert reference is not None
    columns["relaxations"] = solved.solution.relaxations.cpu().numpy()
    columns["relative_error"] = relative_error(reference, solved.feature).cpu().numpy()
    solutions = [outputs.solution for outputs in answers.values() if outputs.solution is not None]
    interrupted = torch.stack([solution.status == Status.INTERRUPTED for solution in solutions]).any(0)
    status = solved.solution.status.masked_fill(interrupted, int(Status.INTERRUPTED))
    return pa.table({**columns, "status": [Status(code).label for code in status.tolist()]})


def _predict(outputs: Outputs, batch: Batch) -> dict[str, np.ndarray]:
    """Return the column of predictions, in the labels' own precision."""
    predicted = outputs.predict(regression=batch.y.is_floating_point())
    kind = outputs.logits.dtype if predicted.is_floating_point() else torch.int64
    return {"prediction": predicted.to(kind).cpu().numpy()}


def _list_statuses(outputs: Outputs, count: int) -> list[str]:
    solution = outputs.solution
    return [_OK] * count if solution is None else [Status(code).label for code in solution.status.tolist()]
