"""What a defense does with samples as they are: the side of the bracket that needs no attack."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.cip import Status
from otad_ray.data import Batch
from otad_ray.evaluation.records.relative_error import relative_error
from otad_ray.evaluation.records.schema import RecordStatus
from otad_ray.evaluation.records.standard import NO_PREDICTION
from otad_ray.evaluation.records.verification import defense_outputs
from otad_ray.models import Backbone

_OK = "ok"


@torch.no_grad()
def clean_records(
    defense: nn.Module, net: Backbone, batch: Batch, certificate: tuple[Tensor, list[str]] | None
) -> pa.Table:
    """A row per sample: id, label, prediction, clean_correct, radius, method, relative_error, status,
    error.

    net: the undefended one, whose features R(x) are the reference of the relative error RE (NaN without a feature).
    certificate: radius (B,) and method; without one the radius is 0 and the method "".
    status: of the solver, or "ok" where the defense has none.
    """
    outputs = defense_outputs(defense, batch.x)
    answered = outputs.solved & outputs.finite
    columns: dict[str, Any] = {"id": batch.ids.numpy(), "label": batch.y.numpy()}
    if batch.y.is_floating_point():
        prediction = outputs.logits[:, 0].masked_fill(~answered, torch.nan)
        columns |= {"prediction": prediction.numpy(), "clean_correct": pa.nulls(len(batch.y), pa.bool_())}
    else:
        prediction = outputs.logits.argmax(1).masked_fill(~answered, NO_PREDICTION)
        columns |= {"prediction": prediction.numpy(), "clean_correct": (prediction == batch.y).numpy()}
    radius, method = certificate or (torch.zeros(len(batch.y), dtype=torch.float64), [""] * len(batch.y))
    columns |= {"radius": radius.cpu().numpy(), "method": pa.array(method, pa.string())}
    columns["relative_error"] = np.full(len(batch.y), np.nan)
    if outputs.feature is not None:
        columns["relative_error"] = relative_error(net.features(net.embed(batch.x)), outputs.feature).double().numpy()
    solution = outputs.solution
    columns["status"] = (
        [_OK] * len(batch.y) if solution is None else [Status(code).label for code in solution.status.tolist()]
    )
    return pa.table({**columns, "error": [""] * len(batch.y)})


def failed_clean_records(batch: Batch, error: str) -> pa.Table:
    """Records of samples that the defense raised `error` on: not right, and with no radius."""
    count = len(batch.y)
    regression = batch.y.is_floating_point()
    return pa.table(
        {
            "id": batch.ids.numpy(),
            "label": batch.y.numpy(),
            "prediction": np.full(count, np.nan, np.float32) if regression else np.full(count, NO_PREDICTION),
            "clean_correct": pa.nulls(count, pa.bool_()) if regression else np.zeros(count, dtype=bool),
            "radius": np.zeros(count),
            "method": pa.array([""] * count, pa.string()),
            "relative_error": np.full(count, np.nan),
            "status": [RecordStatus.ATTACK_ERROR.value] * count,
            "error": [error] * count,
        }
    )
