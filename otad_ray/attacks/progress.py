"""The best example of every sample so far, what it cost, and who is still to be attacked."""

import torch
from torch import Tensor, nn

from otad_ray.attacks.attack import AttackResult, check_logits
from otad_ray.attacks.budget import perturbation_norm
from otad_ray.attacks.goals import Goal


class Progress:
    """Bookkeeping of an iterative attack on samples x (B, *shape) with labels y (B,).

    best (B, *shape), scores (B,): the example of the highest score. reached (B,): nothing is left to gain.
    """

    def __init__(self, x: Tensor, y: Tensor, goal: Goal) -> None:
        self._goal = goal
        self._y = y
        self.best = x.clone()
        self.scores = torch.full((len(x),), -torch.inf, device=x.device)
        self.reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._queries = torch.zeros(len(x), dtype=torch.int64)
        self._gradient_queries = torch.zeros(len(x), dtype=torch.int64)
        self._gradients = torch.zeros(len(x), dtype=torch.int64)
        self._zero_gradients = torch.zeros(len(x), dtype=torch.int64)

    @property
    def open(self) -> Tensor:
        """Positions (n,) of the samples that are still to be attacked."""
        return (~self.reached).nonzero().squeeze(1)

    @torch.no_grad()
    def evaluate(self, defense: nn.Module, rows: Tensor, moved: Tensor) -> Tensor:
        """Ask the defense for the scores (n,) of examples of the samples at positions rows (n,)."""
        logits = defense(moved)
        check_logits(logits, moved, self._y[rows])
        return self.see(rows, moved, logits, torch.ones(len(rows), dtype=torch.int64))

    def see(self, rows: Tensor, moved: Tensor, logits: Tensor, queries: Tensor) -> Tensor:
        """Take note of outputs (n, C) that cost so many queries (n,); their scores (n,)."""
        y = self._y[rows]
        scores = self._goal.scores(logits, y).to(self.scores)
        reached = self._goal.reached(logits, y)
        better = self._better(rows, moved, scores, reached).nonzero().squeeze(1)
        if len(better):
            places = rows[better]
            self.best[places] = moved[better]
            self.scores[places] = scores[better]
            self.reached[places] |= reached[better]
        self._queries.index_add_(0, rows.cpu(), queries)
        return scores

    def _better(self, rows: Tensor, moved: Tensor, scores: Tensor, reached: Tensor) -> Tensor:
        """Which examples (n,) replace the best ones so far."""
        # Equal logits can be a misprediction or not: the first of them counts.
        return (scores > self.scores[rows]) | (reached & ~self.reached[rows])

    def see_gradients(self, rows: Tensor, zero: Tensor, queries: Tensor) -> None:
        """Count gradients that cost so many queries (n,), and those that vanished (n,)."""
        rows = rows.cpu()
        self._gradient_queries.index_add_(0, rows, queries)
        self._gradients.index_add_(0, rows, torch.ones_like(rows))
        self._zero_gradients.index_add_(0, rows, zero.long().cpu())

    def result(self) -> AttackResult:
        """0 / 0, where no gradient was asked for, is NaN."""
        return AttackResult(
            x_adv=self.best,
            queries=self._queries,
            gradient_queries=self._gradient_queries,
            zero_gradient_share=self._zero_gradients.double() / self._gradients.double(),
        )


class ClosestProgress(Progress):
    """Bookkeeping of an attack that chooses the norm: of examples that reach the goal the closest (l2) is the best."""

    def __init__(self, x: Tensor, y: Tensor, goal: Goal) -> None:
        super().__init__(x, y, goal)
        self._x = x

    def _better(self, rows: Tensor, moved: Tensor, scores: Tensor, reached: Tensor) -> Tensor:
        x, first = self._x[rows], ~self.reached[rows]
        closer = perturbation_norm(moved - x, "l2") < perturbation_norm(self.best[rows] - x, "l2")
        return torch.where(reached, first | closer, first & (scores > self.scores[rows]))
