"""A sample's draws are its own."""

import torch

from otad_ray.attacks import Streams


def test_draws_do_not_depend_on_the_other_samples() -> None:
    many, few = Streams.of(3, range(10), "pgd", 0.5), Streams.of(3, [7, 2], "pgd", 0.5)
    assert torch.equal(many.normal(2, 3)[[7, 2]], few.normal(2, 3))
    assert torch.equal(many.uniform(4)[[7, 2]], few.uniform(4))
    seeds = many.seeds()
    assert [seeds[7], seeds[2]] == few.seeds()


def test_taken_streams_go_on_where_they_were() -> None:
    streams, again = Streams.of(0, range(3)), Streams.of(0, range(3))
    streams.take(torch.tensor([1])).uniform(5)
    expected = again.uniform(10)
    assert torch.equal(streams.take(torch.tensor([1])).uniform(5)[0], expected[1, 5:])
    assert torch.equal(streams.take(torch.tensor([2])).uniform(5)[0], expected[2, :5])


def test_seed_id_and_purpose_matter() -> None:
    draws = [Streams.of(*given).uniform(1).item() for given in ((0, [1]), (1, [1]), (0, [2]), (0, [1], "noise"))]
    assert len(set(draws)) == 4


def test_the_shared_seed_depends_on_all_and_on_their_order() -> None:
    seeds = {Streams.of(0, ids).shared_seed() for ids in ([1, 2], [2, 1], [1], [1, 2, 3])}
    assert len(seeds) == 4
    assert Streams.of(0, [1, 2]).shared_seed() in seeds
    assert all(0 <= seed < 2**31 for seed in seeds)
