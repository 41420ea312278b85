"""Random defenses: noise that is asked for, and noise that is fixed."""

import torch
from torch import Tensor, nn

from otad_ray.attacks import PGD, Budget
from otad_ray.attacks.gradients import BackwardPassGradient
from otad_ray.data import Batch
from otad_ray.defenses.randomness import answer_by_row, count_draws, fix_noise, is_random
from otad_ray.evaluation import AttackRun, record_attack


class Noisy(nn.Module):
    """Logits of an input with noise; it remembers how often it was asked."""

    def __init__(self, draws_to_average: int | None = None) -> None:
        super().__init__()
        self.asked = 0
        if draws_to_average is not None:
            self.draws_to_average = draws_to_average

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.asked += 1
        noise = 0.2 * torch.randn(inputs.shape, generator=generator)
        first = (inputs + noise).flatten(1)[:, 0] - 0.5
        return torch.stack([-first, first], 1)


class NoisyPurifier(Noisy):
    def __init__(self) -> None:
        super().__init__(draws_to_average=3)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def purify(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        # No gradient: an attack must go around it.
        return (inputs + 0.1 * torch.randn(inputs.shape, generator=generator)).round(decimals=1).detach()

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.classifier(self.purify(inputs, generator))


def test_defense_is_random_if_it_takes_a_generator() -> None:
    assert is_random(Noisy())
    assert not is_random(nn.Linear(2, 2))
    assert (count_draws(Noisy()), count_draws(Noisy(7)), count_draws(nn.Linear(2, 2))) == (20, 7, 1)
    assert count_draws(fix_noise(Noisy(7), 0)) == 7


def test_answer_to_a_row_depends_on_nothing_else() -> None:
    x = torch.rand(4, 1, 2, 2)

    def generators(rows: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(row) for row in rows]

    whole = answer_by_row(Noisy(), x, generators([0, 1, 2, 3]))
    part = answer_by_row(Noisy(), x[2:], generators([2, 3]))
    torch.testing.assert_close(whole[2:], part, rtol=0, atol=0)


def test_attacks_average_the_draws_and_repeat() -> None:
    x, y = torch.full((3, 1, 2, 2), 0.9), torch.tensor([1, 1, 1])
    budget = Budget(eps=0.05, bounds=(0.0, 1.0))
    defense = Noisy(5)
    first = PGD(steps=4)(defense, x, y, budget)
    assert defense.asked == 2 + 4 * 5
    assert first.gradient_queries.tolist() == [20, 20, 20]
    second = PGD(steps=4)(Noisy(5), x, y, budget)
    torch.testing.assert_close(first.x_adv, second.x_adv, rtol=0, atol=0)


def test_records_of_a_random_defense_repeat_and_are_not_flagged() -> None:
    batch = Batch(torch.arange(40), torch.rand(40, 1, 2, 2), torch.randint(2, (40,)))
    run = AttackRun(name="pgd", budget=Budget(eps=0.1, bounds=(0.0, 1.0)), seed=0)
    first, second = (record_attack(Noisy(2), batch, PGD(steps=2), run) for _ in range(2))
    # As text, in which NaN is NaN.
    assert str(first.to_pylist()) == str(second.to_pylist())
    assert not any(first["repeat_differs"].to_pylist())
    # The same samples in another order, and fewer of them, are answered the same.
    rows = torch.tensor([5, 3])
    part = record_attack(Noisy(2), Batch(*(tensor[rows] for tensor in batch)), PGD(steps=2), run)
    assert part["clean_prediction"].to_pylist() == [first["clean_prediction"][row].as_py() for row in (5, 3)]


def test_backward_pass_goes_around_a_purifier() -> None:
    torch.manual_seed(0)
    purifier = NoisyPurifier()
    x = torch.rand(6, 1, 2, 2)
    y = purifier.classifier(x).argmax(1)
    budget = Budget(eps=2.0, bounds=(0.0, 1.0))
    blind = PGD(steps=5)(purifier, x, y, budget)
    assert blind.zero_gradient_share.tolist() == [1.0] * 6
    # No surrogate is given: it is not needed.
    around = PGD(steps=5, gradient=BackwardPassGradient())(purifier, x, y, budget)
    assert around.zero_gradient_share.nan_to_num().max() == 0
    margin = purifier.classifier(around.x_adv).gather(1, y[:, None])
    assert bool((margin < purifier.classifier(x).gather(1, y[:, None])).all())
