"""The samples that an attack still works on: who leaves, what is counted, and where they are moved to."""

import torch

from helpers.nets import Counted, TwoClasses
from otad_ray.attacks import Active, Budget, ExactGradient, Goal, Progress, Streams
from otad_ray.attacks.attack import Target

# Class 1 where the first value is positive: samples at 1, 2 and -1, of which the last is misclassified.
NET = TwoClasses(torch.tensor([1.0, 0.0]))
X = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
Y = torch.ones(3, dtype=torch.int64)


def begin(net: torch.nn.Module, eps: float = 1.5) -> tuple[Active, Progress]:
    target = Target(net, X, Y, Budget(eps=eps), Streams.of(0, range(3)), None)
    progress = Progress(X, Y, Goal())
    return Active(target, progress), progress


def test_active_samples_leave_once_they_are_misclassified() -> None:
    active, progress = begin(NET)
    assert active.evaluate().tolist() == [True, True, False]
    assert active.rows.tolist() == [0, 1]
    active.move(torch.tensor([[-1.2, 0.0], [-1.2, 0.0]]))
    assert active.evaluate().tolist() == [False, True]
    assert (active.rows.tolist(), active.target.x.tolist(), len(active)) == ([1], [[2.0, 0.0]], 1)
    assert progress.result().x_adv[0, 0] < 0


def test_active_gradients_are_of_those_that_stay() -> None:
    active, progress = begin(NET)
    gradient = active.differentiate(ExactGradient())
    assert gradient.shape == (2, 2)
    assert (gradient[:, 0] < 0).all()
    assert progress.result().gradient_queries.tolist() == [1, 1, 1]


def test_active_moves_stay_within_the_budget() -> None:
    active, _ = begin(NET, eps=0.5)
    active.move(torch.full((3, 2), 10.0))
    assert ((active.moved - X).norm(dim=1) <= 0.5).all()


def test_active_steps_end_when_no_sample_is_left_and_ask_nothing_more() -> None:
    counted = Counted(NET)
    active, _ = begin(counted)
    assert list(active.steps(3)) == [1, 2, 3]
    active.leave(torch.ones(3, dtype=torch.bool))
    assert list(active.steps(3)) == []
    assert active.evaluate().tolist() == []
    assert counted.rows == 0
