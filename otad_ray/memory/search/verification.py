"""Which answers of another index are wrong."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Verification:
    """Answers of another index, judged by exact search.

    Attributes:
        wrong: (B, K) bool, answers that are not among the nearest: farther than the K-th nearest key, no position of a
            key (as -1 is, which FAISS gives), or a key that the row has named before. Of the keys that are as far as
            the K-th nearest, any will do, but only as many as are needed: where a nearer one is missing, one of them
            stands in its place, and is wrong.
        positions: (B, K) int64, the nearest keys.
        distances: (B, K) float64, their distances.
    """

    wrong: Tensor
    positions: Tensor
    distances: Tensor

    @property
    def recall(self) -> float:
        """Share of the answers that are right."""
        return 1 - float(self.wrong.double().mean()) if self.wrong.numel() else 1.0


def judge_answers(answers: Tensor, answered: Tensor, positions: Tensor, distances: Tensor) -> Verification:
    """Judge answers.

    Args:
        answers: (B, K) int64, positions of keys.
        answered: (B, K) float64, distances of those keys; infinite for what is no position of a key.
        positions: (B, K) int64, the nearest keys.
        distances: (B, K) float64, their distances.
    """
    ordered, order = answers.sort(dim=1, stable=True)
    repeated = ordered.diff(dim=1).eq(0)
    again = repeated.new_zeros(answers.shape)
    again.scatter_(1, order[:, 1:], repeated)
    farthest = distances[:, -1:]
    places = (distances == farthest).sum(1, keepdim=True)
    last = (answered == farthest) & ~again
    too_many = last & (last.cumsum(1) > places)
    return Verification((answered > farthest) | again | too_many, positions, distances)
