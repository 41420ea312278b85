"""Losses that metric nets are trained by (paper, Section IV.D), from pytorch-metric-learning."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from torch import Tensor

from otad_ray.errors import InputError


class MetricLoss(NamedTuple):
    """loss: scalar, differentiable, 0 where nothing violates the margin. active: number of triplets or pairs in it."""

    loss: Tensor
    active: int


# Keys (B, E) and integer labels (B,) of one batch.
LossFunction = Callable[[Tensor, Tensor], MetricLoss]


def triplet_loss(margin: float = 0.2) -> LossFunction:
    """The mean over semi-hard triplets (a, p, n) of `d_ap - d_an + margin`.

    Distances are l2, of the keys as they are. Semi-hard: a and p of one class, n of another,
    `0 < d_an - d_ap < margin`. Time and memory grow with the cube of the batch: all triplets are formed.
    """
    _check(margin)
    library = _library()
    distance = library.distances.LpDistance(normalize_embeddings=False)
    miner = library.miners.TripletMarginMiner(margin, type_of_triplets="semihard", distance=distance)
    loss = library.losses.TripletMarginLoss(margin, distance=distance, reducer=_counting_mean(library))

    def compute(keys: Tensor, labels: Tensor) -> MetricLoss:
        # Distances between near keys cancel, to 1e-2 for keys of norm 30 in float32: margins are no larger.
        precise = keys.double()
        value = loss(precise, labels, miner(precise, labels))
        return MetricLoss(value.to(keys.dtype), _counted(loss.reducer))

    return compute


def contrastive_loss(margin: float = 1.0) -> LossFunction:
    """The mean over unlike pairs nearer than the margin of `margin - d`, plus the mean distance of like pairs.

    Distances are l2, of the keys as they are. Like pairs at distance 0 are left out.
    """
    _check(margin)
    library = _library()
    loss = library.losses.ContrastiveLoss(
        pos_margin=0,
        neg_margin=margin,
        distance=library.distances.LpDistance(normalize_embeddings=False),
        reducer=_counting_mean(library),
    )

    def compute(keys: Tensor, labels: Tensor) -> MetricLoss:
        value = loss(keys.double(), labels)
        return MetricLoss(value.to(keys.dtype), sum(map(_counted, loss.reducer.reducers.values())))

    return compute


METRIC_LOSSES: Mapping[str, Callable[[float], LossFunction]] = {
    "triplet": triplet_loss,
    "contrastive": contrastive_loss,
}


def _check(margin: float) -> None:
    if not (isfinite(margin) and margin > 0):
        raise InputError(f"need a finite margin > 0, got {margin}")


def _library() -> Any:
    try:
        import pytorch_metric_learning.distances
        import pytorch_metric_learning.losses
        import pytorch_metric_learning.miners
        import pytorch_metric_learning.reducers
    except ModuleNotFoundError as error:
        raise InputError(
            f"metric nets are trained with pytorch-metric-learning, but {error.name} is not installed: "
            "pip install pytorch-metric-learning==2.9.0"
        ) from error
    return pytorch_metric_learning


def _counting_mean(library: Any) -> Any:
    return library.reducers.AvgNonZeroReducer(collect_stats=True)


def _counted(reducer: Any) -> int:
    return reducer.num_past_filter
