"""How likely a draft model's guess is right: by its doubt, for a request, and after a while."""

from __future__ import annotations

import pytest

from headrace.spec.guess_chances import FIRST_MEAN, ChanceRecord, GuessChances


def test_the_surer_the_likelier() -> None:
    chances = GuessChances()
    found = [chances.chance(ChanceRecord(), p) for p in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
    assert found == sorted(found)


def test_it_learns_of_the_request_and_of_all() -> None:
    chances, record = GuessChances(), ChanceRecord()
    for _ in range(30):
        chances.observe(record, [0.9, 0.9], 0)
    assert chances.mean(record) < 0.2
    assert chances.mean(record) < chances.mean() < FIRST_MEAN
    assert chances.chance(record, 0.9) < 0.3
    assert chances.chance(record, 0.3) == pytest.approx(0.5)


def test_only_guesses_whose_turn_came_count() -> None:
    chances, record = GuessChances(), ChanceRecord()
    chances.observe(record, [0.9, 0.5, 0.1, 0.1], 1)
    assert record.mean.num_tried == pytest.approx(1.95)
    assert record.by_bin[0].num_tried == 0


def test_a_request_is_tried_again_after_a_rest() -> None:
    chances, record = GuessChances(), ChanceRecord()
    for _ in range(10):
        chances.observe(record, [0.9], 0)
    before = chances.mean(record)
    for _ in range(400):
        chances.rest(record)
    assert before < 0.5 < chances.mean(record)
