"""The books of an attack: the best example of every sample so far and its cost, and which samples are still active."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from otad_ray.attacks.attack import AttackResult, Target, check_logits
from otad_ray.attacks.budget import perturbation_norm
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.gradients import Gradient, is_zero


class Progress:
    """Bookkeeping of an iterative attack on samples x (B, *shape) with labels y (B,).

    Attributes:
        goal: What the attack maximizes.
        best: The example (B, *shape) of the highest score of each sample.
        scores: That score (B,).
        reached: Whether nothing is left to gain (B,).
    """

    def __init__(self, x: Tensor, y: Tensor, goal: Goal) -> None:
        self.goal = goal
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
        """Return the positions (n,) of the samples that are still to be attacked."""
        return (~self.reached).nonzero().squeeze(1)

    @torch.no_grad()
    def evaluate(self, defense: nn.Module, rows: Tensor, moved: Tensor) -> Tensor:
        """Ask the defense for its outputs at `moved`, examples of the samples at positions rows (n,).

        Returns:
            Their scores (n,).
        """
        logits = defense(moved)
        check_logits(logits, moved, self._y[rows])
        return self.see(rows, moved, logits, torch.ones(len(rows), dtype=torch.int64))

    def see(self, rows: Tensor, moved: Tensor, logits: Tensor, queries: Tensor) -> Tensor:
        """Take note of outputs (n, C) at `moved`, which cost so many queries (n,); return their scores (n,)."""
        y = self._y[rows]
        scores = self.goal.scores(logits, y).to(self.scores)
        reached = self.goal.reached(logits, y)
        better = self._better(rows, moved, scores, reached).nonzero().squeeze(1)
        if len(better):
            places = rows[better]
            self.best[places] = moved[better]
            self.scores[places] = scores[better]
            self.reached[places] |= reached[better]
        self._queries.index_add_(0, rows.cpu(), queries)
        return scores

    def _better(self, rows: Tensor, moved: Tensor, scores: Tensor, reached: Tensor) -> Tensor:
        """Return which examples (n,) replace the best ones so far."""
        # Equal logits can be a misprediction or not: the first of them counts.
        return (scores > self.scores[rows]) | (reached & ~self.reached[rows])

    def see_gradients(self, rows: Tensor, zero: Tensor, queries: Tensor) -> None:
        """Count gradients that cost so many queries (n,), and those that vanished (n,)."""
        rows = rows.cpu()
        self._gradient_queries.index_add_(0, rows, queries)
        self._gradients.index_add_(0, rows, torch.ones_like(rows))
        self._zero_gradients.index_add_(0, rows, zero.long().cpu())

    def result(self) -> AttackResult:
        """Return the best examples and what they cost."""
        # 0 / 0 is NaN: no gradient was asked for.
        return AttackResult(
            x_adv=self.best,
            queries=self._queries,
            gradient_queries=self._gradient_queries,
            zero_gradient_share=self._zero_gradients.double() / self._gradients.double(),
        )


class Active:
    """The samples of an attack that are not yet misclassified, and where each has been moved to.

    Everything the defense is asked goes through here and into `progress`. Samples that reach the goal drop out by
    themselves, so that a loop of gradient steps reads

        active = Active(target, progress)
        for _ in active.steps(self.steps):
            gradient = active.differentiate(self.gradient)
            active.move(budget.step(gradient, size))
        active.evaluate()
        return progress.result()

    Attributes:
        rows: Positions (n,) of the active samples among those that `progress` keeps the books of.
        target: The active samples, with their labels and streams.
        moved: Where they are now (n, *shape); at first the samples themselves.
    """

    def __init__(self, target: Target, progress: Progress, rows: Tensor | None = None) -> None:
        """Begin at all samples of the target that have not reached the goal, or at those of them in `rows` (n,)."""
        self._progress = progress
        self.rows = progress.open if rows is None else rows
        self.target = target.take(self.rows)
        self.moved = self.target.x

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, count: int) -> Iterator[int]:
        """Count from 1 to `count`, and stop before if no sample is active any more."""
        for step in range(1, count + 1):
            if not len(self):
                return
            yield step

    def differentiate(self, gradient: Gradient) -> Tensor:
        """Ask for the gradient where the samples are now.

        Returns:
            The gradients (n, *shape) of the samples that are still active after the answer.
        """
        found = gradient(self.target, self.moved, self._progress.goal)
        self._progress.see(self.rows, self.moved, found.logits, found.queries)
        self._progress.see_gradients(self.rows, is_zero(found.gradient), found.gradient_queries)
        return found.gradient[self._leave_reached()]

    def evaluate(self) -> Tensor:
        """Ask the defense for its outputs where the samples are now.

        Returns:
            Which (n,) of the samples that were asked for are still active, to narrow tensors of the attack's own.
        """
        if len(self):
            self._progress.evaluate(self.target.defense, self.rows, self.moved)
        return self._leave_reached()

    def move(self, step: Tensor) -> None:
        """Move each sample by its `step` (n, *shape), and back into the budget where that leaves it."""
        self.moved = self.target.budget.project(self.target.x, self.moved + step)

    def leave(self, where: Tensor) -> None:
        """Go on without the samples that `where` (n,) is true for."""
        if bool(where.any()):
            going = (~where).nonzero().squeeze(1)
            self.rows, self.moved, self.target = self.rows[going], self.moved[going], self.target.take(going)

    def _leave_reached(self) -> Tensor:
        reached = self._progress.reached[self.rows]
        self.leave(reached)
        return ~reached


class ClosestProgress(Progress):
    """Bookkeeping of an attack that chooses the norm: of examples that reach the goal the closest (l2) is the best."""

    def __init__(self, x: Tensor, y: Tensor, goal: Goal) -> None:
        super().__init__(x, y, goal)
        self._x = x

    def _better(self, rows: Tensor, moved: Tensor, scores: Tensor, reached: Tensor) -> Tensor:
        x, first = self._x[rows], ~self.reached[rows]
        closer = perturbation_norm(moved - x, "l2") < perturbation_norm(self.best[rows] - x, "l2")
        return torch.where(reached, first | closer, first & (scores > self.scores[rows]))
