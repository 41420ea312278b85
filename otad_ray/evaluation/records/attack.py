"""Attack records: one row per sample, attack and budget, verified afresh by the real defense."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.attacks import Attack, AttackResult, Budget, Streams
from otad_ray.cip import Solution, Status
from otad_ray.data import Batch
from otad_ray.defenses import MemoryDefense
from otad_ray.errors import InputError
from otad_ray.evaluation.records.schema import RecordStatus, record_schema, record_table
from otad_ray.evaluation.records.verification import (
    Outputs,
    ask_defense,
    keeps_to_budget,
    perturbation_norms,
    repeat_differs,
)

# Columns of a sample and the defense, whatever the attack.
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
# The columns of earlier records that `skipped_records` reads.
SKIPPED_COLUMNS = (*_CLEAN_COLUMNS, "broken")
# The solver's columns that are recorded for the clean input too.
_CLEAN_SOLVER = ("solver_status", "relaxations")

# What records say of defenses that relax no regularity.
_NOT_RELAXED: Mapping[str, Any] = {"relaxations": -1, "smoothness_used": np.nan, "strong_convexity_used": np.nan}


@dataclass(frozen=True, kw_only=True)
class AttackRun:
    """An attack under its name, with a budget and a seed: what all records of a run share.

    Attributes:
        name: the attack's name in records.
        budget: what it may change.
        seed: of its random streams.
    """

    name: str
    budget: Budget
    seed: int

    def draw_streams(self, ids: Tensor) -> Streams:
        """Return the random streams of samples with ids (B,): they depend on nothing but the sample and the run."""
        return Streams.of(self.seed, ids.tolist(), self.name, self.budget.norm, self.budget.eps)

    @property
    def columns(self) -> dict[str, Any]:
        """The run's own columns."""
        return {"attack": self.name, "norm": self.budget.norm, "eps": self.budget.eps, "seed": self.seed}


def record_attack(
    defense: nn.Module,
    batch: Batch,
    attack: Attack,
    run: AttackRun,
    *,
    cohort: int = 0,
    surrogate: MemoryDefense | None = None,
) -> pa.Table:
    """Attack samples, and verify what was found.

    Args:
        defense: inputs (B, *shape) to logits (B, C).
        batch: ids (B,), samples (B, *shape) and labels (B,).
        attack: the attack.
        run: its name, budget and seed.
        cohort: number of the samples' cohort.
        surrogate: a defense whose net and training points the attacker knows; None for the defense itself.

    Returns:
        One record per sample, with the columns of `record_schema`.

    Raises:
        InputError: for inputs, labels or budgets that cannot be attacked. Whatever the defense raises goes through.
    """
    streams = run.draw_streams(batch.ids)
    result = attack(defense, batch.x, batch.y, run.budget, streams, surrogate=surrogate)
    return attack_records(defense, batch, result, run, cohort=cohort)


@torch.no_grad()
def attack_records(
    defense: nn.Module, batch: Batch, result: AttackResult, run: AttackRun, *, cohort: int = 0
) -> pa.Table:
    """Verify examples, and return their records.

    Args:
        defense: the defense that was attacked.
        batch: ids (B,), samples (B, *shape) and labels (B,); float labels are those of a regression.
        result: the examples, and what the attack reports of itself.
        run: the attack's name, budget and seed.
        cohort: number of the samples' cohort.

    Returns:
        One record per sample, with the columns of `record_schema`.
    """
    x, x_adv = batch.x, result.x_adv
    norms = perturbation_norms(x, x_adv)
    valid = keeps_to_budget(x_adv, norms[run.budget.norm], run.budget)
    judged = torch.where(valid.view(-1, *[1] * (x.dim() - 1)), x_adv, x)
    clean, attacked = ask_defense(defense, x, batch.ids), ask_defense(defense, judged, batch.ids)
    columns: dict[str, Any] = {
        "id": batch.ids,
        "cohort": cohort,
        "label": batch.y,
        **run.columns,
        **{str(name): values for name, values in norms.items()},
        "queries": result.queries,
        "gradient_queries": result.gradient_queries,
        "zero_gradient_share": result.zero_gradient_share,
        "repeat_differs": repeat_differs(defense, judged, attacked.logits, batch.ids),
        "error": "",
        "x_adv": x_adv,
        **_judge(clean, attacked, batch.y.to(x.device), valid),
        **{f"clean_{name}": values for name, values in _read_solver(clean).items() if name in _CLEAN_SOLVER},
        **_read_solver(attacked),
    }
    return record_table(columns, record_schema(regression=batch.y.is_floating_point()), len(batch.ids))


def failed_records(batch: Batch, run: AttackRun, *, cohort: int, error: str) -> pa.Table:
    """Return the records of samples on which the attack or the defense raised `error`."""
    columns = {
        "id": batch.ids,
        "cohort": cohort,
        "label": batch.y,
        **run.columns,
        "status": RecordStatus.ATTACK_ERROR.value,
        "error": error,
    }
    return record_table(columns, record_schema(regression=batch.y.is_floating_point()), len(batch.ids))


def skipped_records(earlier: pa.Table, run: AttackRun) -> pa.Table:
    """Return the records of samples that an attack was spared, because another one broke them.

    Args:
        earlier: records of the other attack, with SKIPPED_COLUMNS, of broken samples alone.
        run: the attack that was spared.
    """
    if not all(earlier["broken"].to_pylist()):
        raise InputError("samples may only be skipped if an earlier attack broke them; give those rows alone")
    columns: dict[str, Any] = {name: earlier[name].combine_chunks() for name in _CLEAN_COLUMNS}
    columns |= {
        **run.columns,
        "success": False,
        "broken": True,
        "queries": 0,
        "gradient_queries": 0,
        "status": RecordStatus.SKIPPED.value,
        "error": "",
    }
    schema = record_schema(regression=pa.types.is_floating(earlier["label"].type))
    return record_table(columns, schema, len(earlier))


def _judge(clean: Outputs, attacked: Outputs, y: Tensor, valid: Tensor) -> dict[str, Any]:
    """Return the columns of logits and predictions, and what they say of the samples."""
    regression = y.is_floating_point()
    predicted = {"clean_": clean.predict(regression=regression), "": attacked.predict(regression=regression)}
    columns: dict[str, Any] = {
        "clean_logits": clean.logits,
        "logits": attacked.logits,
        **{f"{prefix}prediction": values for prefix, values in predicted.items()},
        "status": _list_statuses(attacked, valid),
        "feature_distance": _measure_feature_distance(clean, attacked, clean.answered & attacked.answered & valid),
    }
    if regression:
        return columns | {"broken": ~clean.answered | (valid & ~attacked.answered)}
    clean_correct, correct = predicted["clean_"] == y, predicted[""] == y
    return columns | {
        "clean_correct": clean_correct,
        "success": clean_correct & ~correct & valid & attacked.answered,
        "broken": ~clean_correct | (valid & ~correct),
    }


def _list_statuses(attacked: Outputs, valid: Tensor) -> list[str]:
    status = np.full(len(valid), RecordStatus.OK.value, dtype=object)
    status[~attacked.finite.cpu().numpy()] = RecordStatus.NAN_LOGITS.value
    status[~attacked.solved.cpu().numpy()] = RecordStatus.UNSOLVED.value
    status[~valid.cpu().numpy()] = RecordStatus.INVALID.value
    return status.tolist()


def _measure_feature_distance(clean: Outputs, attacked: Outputs, comparable: Tensor) -> Tensor:
    """Return the l2 distances (B,) of features, NaN if there is none to compare."""
    if clean.feature is None or attacked.feature is None:
        return torch.full((len(comparable),), torch.nan, dtype=torch.float64)
    distance = (attacked.feature.double() - clean.feature.double()).flatten(1).norm(dim=1)
    return distance.masked_fill(~comparable, torch.nan)


def _read_solver(outputs: Outputs) -> dict[str, Any]:
    """Return the columns of the solver; "", -1 and NaN for a defense that solves nothing, or relaxes nothing."""
    solution = outputs.solution
    if solution is None:
        return {"solver_status": "", **_NOT_RELAXED}
    status = [Status(code).label for code in solution.status.tolist()]
    if not isinstance(solution, Solution):
        return {"solver_status": status, **_NOT_RELAXED}
    return {
        "solver_status": status,
        "relaxations": solution.relaxations,
        "smoothness_used": solution.smoothness_used,
        "strong_convexity_used": solution.strong_convexity_used,
    }
