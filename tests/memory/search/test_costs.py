"""What pays in a search: rooms for candidates, and whether sketches are tried."""

import torch

from otad_ray.memory.search.costs import PruningRecord, choose_room


def test_few_keys_may_all_be_candidates() -> None:
    assert choose_room(torch.zeros(100, 3), 5) == 100


def test_room_has_place_for_the_neighbors() -> None:
    assert choose_room(torch.zeros(20_000, 3), 3000) >= 12_000
    assert 512 <= choose_room(torch.zeros(20_000, 3), 5) <= 20_000


def test_sketches_are_given_up_where_they_do_not_pay_and_tried_again() -> None:
    record = PruningRecord(seconds_without=1.0)
    assert record.is_worth_trying()
    record.note(seconds=5.0, num_tried=10, num_answered=6)
    assert record.is_worth_trying()
    record.note(seconds=5.0, num_tried=10, num_answered=4)
    tries = [record.is_worth_trying() for _ in range(32)]
    assert tries.count(True) == 2
    record.note(seconds=5.0, num_tried=10, num_answered=6)
    assert record.is_worth_trying()


def test_a_slow_first_call_says_nothing() -> None:
    record = PruningRecord(seconds_without=1.0)
    record.note(seconds=1000.0, num_tried=1, num_answered=1)
    assert record.is_worth_trying()


def test_a_call_that_was_interrupted_says_nothing() -> None:
    record = PruningRecord(seconds_without=1.0)
    for seconds in (9.0, 0.1, 1000.0):
        record.note(seconds=seconds, num_tried=1, num_answered=1)
    assert record.is_worth_trying()
