"""Attack records: one row per sample, attack and budget, verified afresh by the real defense."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.attacks import Norm
from otad_ray.cip import Status
from otad_ray.errors import InputError
from otad_ray.evaluation.records.schema import RecordStatus, record_schema, record_table
from otad_ray.evaluation.records.standard import NO_PREDICTION
from otad_ray.evaluation.records.verification import (
    Outputs,
    defense_outputs,
    keeps_to_budget,
    perturbation_norms,
    repeat_differs,
)

# Of a sample and the defense, whatever the attack.
_CLEAN_COLUMNS = (
    "id",
    "cohort",
    "label",
    "clean_logits",
    "clean_prediction",
    "clean_correct",
    "clean_solver_status",
    "clean_relaxations",
)
# What `skipped_records` reads of earlier ones.
SKIPPED_COLUMNS = (*_CLEAN_COLUMNS, "broken")
# Of the solver, those that are recorded for the clean input too.
_CLEAN_SOLVER = ("solver_status", "relaxations")


@torch.no_grad()
def attack_records(
    defense: nn.Module,
    ids: Tensor,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    attack: str,
    norm: Norm,
    eps: float,
    bounds: tuple[float, float] | None,
    seed: int,
    queries: Tensor,
    gradient_queries: Tensor,
    zero_gradient_share: Tensor,
    cohort: int,
) -> pa.Table:
    """Records of examples x_adv (B, *shape) for samples x (B, *shape), ids (B,) and labels y (B,); all verified here.

    y: float in regression. eps: budget in the norm; inf for an attack without one. bounds: of inputs, or None.
    queries, gradient_queries, zero_gradient_share (B,): what the attack reports of itself.
    """
    norms = perturbation_norms(x, x_adv)
    valid = keeps_to_budget(x_adv, norms[norm], eps=eps, bounds=bounds)
    judged = torch.where(valid.view(-1, *[1] * (x.dim() - 1)), x_adv, x)
    clean, attacked = defense_outputs(defense, x), defense_outputs(defense, judged)
    columns: dict[str, Any] = {
        "id": ids,
        "cohort": cohort,
        "label": y,
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "seed": seed,
        **{str(name): values for name, values in norms.items()},
        "queries": queries,
        "gradient_queries": gradient_queries,
        "zero_gradient_share": zero_gradient_share,
        "repeat_differs": repeat_differs(defense, judged, attacked.logits),
        "error": "",
        "x_adv": x_adv,
        **_verdict(clean, attacked, y.to(x.device), valid),
        **{f"clean_{name}": values for name, values in _solver_columns(clean).items() if name in _CLEAN_SOLVER},
        **_solver_columns(attacked),
    }
    schema = record_schema(regression=y.is_floating_point())
    return record_table(columns, schema, len(ids))


def failed_records(
    ids: Tensor,
    y: Tensor,
    *,
    attack: str,
    norm: Norm,
    eps: float,
    seed: int,
    cohort: int,
    error: str,
) -> pa.Table:
    """Records of samples, ids (B,) and labels y (B,), on which the attack or the defense raised `error`."""
    columns = {
        "id": ids,
        "cohort": cohort,
        "label": y,
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "seed": seed,
        "status": RecordStatus.ATTACK_ERROR.value,
        "error": error,
    }
    return record_table(columns, record_schema(regression=y.is_floating_point()), len(ids))


def skipped_records(earlier: pa.Table, *, attack: str, norm: Norm, eps: float, seed: int) -> pa.Table:
    """Records of samples that an attack was spared, because `earlier`, the records of another, found them broken."""
    if not all(earlier["broken"].to_pylist()):
        raise InputError("samples may only be skipped where an earlier attack broke them; give those rows alone")
    columns: dict[str, Any] = {name: earlier[name].combine_chunks() for name in _CLEAN_COLUMNS}
    columns |= {
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "seed": seed,
        "success": False,
        "broken": True,
        "queries": 0,
        "gradient_queries": 0,
        "status": RecordStatus.SKIPPED.value,
        "error": "",
    }
    schema = record_schema(regression=pa.types.is_floating(earlier["label"].type))
    return record_table(columns, schema, len(earlier))


def _verdict(clean: Outputs, attacked: Outputs, y: Tensor, valid: Tensor) -> dict[str, Any]:
    """Columns of logits, predictions, and what they say of the sample."""
    answered = {"clean_": clean.solved & clean.finite, "": attacked.solved & attacked.finite}
    predictions = {
        "clean_": _prediction(clean.logits, answered["clean_"], y),
        "": _prediction(attacked.logits, answered[""], y),
    }
    columns: dict[str, Any] = {
        "clean_logits": clean.logits,
        "logits": attacked.logits,
        **{f"{prefix}prediction": values for prefix, values in predictions.items()},
        "status": _statuses(attacked, valid),
        "feature_distance": _feature_distance(clean, attacked, answered["clean_"] & answered[""] & valid),
    }
    if y.is_floating_point():
        return columns | {"broken": ~answered["clean_"] | (valid & ~answered[""])}
    clean_correct, correct = predictions["clean_"] == y, predictions[""] == y
    return columns | {
        "clean_correct": clean_correct,
        "success": clean_correct & ~correct & valid & answered[""],
        "broken": ~clean_correct | (valid & ~correct),
    }


def _prediction(logits: Tensor, answered: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return logits[:, 0].double().masked_fill(~answered, torch.nan)
    return logits.argmax(1).masked_fill(~answered, NO_PREDICTION)


def _statuses(attacked: Outputs, valid: Tensor) -> list[str]:
    status = np.full(len(valid), RecordStatus.OK.value, dtype=object)
    status[~attacked.finite.cpu().numpy()] = RecordStatus.NAN_LOGITS.value
    status[~attacked.solved.cpu().numpy()] = RecordStatus.UNSOLVED.value
    status[~valid.cpu().numpy()] = RecordStatus.INVALID.value
    return status.tolist()


def _feature_distance(clean: Outputs, attacked: Outputs, comparable: Tensor) -> Tensor:
    if clean.feature is None or attacked.feature is None:
        return torch.full((len(comparable),), torch.nan, dtype=torch.float64)
    distance = (attacked.feature.double() - clean.feature.double()).flatten(1).norm(dim=1)
    return distance.masked_fill(~comparable, torch.nan)


def _solver_columns(outputs: Outputs) -> dict[str, Any]:
    solution = outputs.solution
    if solution is None:
        return {"solver_status": "", "relaxations": -1, "smoothness_used": np.nan, "strong_convexity_used": np.nan}
    return {
        "solver_status": [Status(code).label for code in solution.status.tolist()],
        "relaxations": solution.relaxations,
        "smoothness_used": solution.smoothness_used,
        "strong_convexity_used": solution.strong_convexity_used,
    }
