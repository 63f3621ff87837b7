"""How many tokens are drafted: what pays, and never much that does not."""

from __future__ import annotations

import pytest

from headrace.spec.draft_length import MAX_DRAFT_TOKENS, DraftLength, RequestRecord
from headrace.spec.step_costs import MAX_TOKENS, StepCosts


@pytest.fixture
def lengths() -> DraftLength:
    return DraftLength({"sure": 0.9, "unsure": 0.3})


def test_the_likelier_the_longer(lengths: DraftLength) -> None:
    chosen = [lengths.choose(1, [(rate, 50)])[0] for rate in (0.0, 0.2, 0.5, 0.8, 0.99)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == MAX_DRAFT_TOKENS


def test_no_more_than_there_is(lengths: DraftLength) -> None:
    assert lengths.choose(1, [(0.99, 3)]) == [3]


def test_a_full_step_has_no_room_for_guesses(lengths: DraftLength) -> None:
    assert lengths.choose(MAX_TOKENS, [(0.99, 9)] * MAX_TOKENS) == [0] * MAX_TOKENS
    few, many = (sum(lengths.choose(n, [(0.6, 9)] * n)) / n for n in (1, 16))
    assert many < few


def test_the_likely_come_first(lengths: DraftLength) -> None:
    likely, unlikely = lengths.choose(2, [(0.95, 9), (0.2, 9)])
    assert likely > unlikely


def test_it_learns_from_the_request_and_from_all(lengths: DraftLength) -> None:
    record, other = RequestRecord(), RequestRecord()
    before = lengths.hit_rate(record, "sure")
    for _ in range(20):
        lengths.observe_draft(record, "sure", 4, 0, lost=0.1)
    assert lengths.hit_rate(record, "sure") < 0.2 < before
    assert lengths.hit_rate(record, "sure") < lengths.hit_rate(other, "sure") < before
    assert lengths.hit_rate(record, "unsure") == pytest.approx(0.3)


def test_what_is_lost_to_wrong_drafts_is_bounded(lengths: DraftLength) -> None:
    """Whatever the rates say: 3 % of the tokens of a long answer, half a step of a short one."""
    record = RequestRecord()
    num_steps, lost = 0, 0.0
    while num_steps < 300:
        num_steps += 1
        if record.balance > 0:
            lost += 0.2
            lengths.observe_draft(record, "sure", 3, 0, lost=0.2)
        else:
            lengths.observe_alone(record)
        assert lost <= 0.5 + 0.025 * num_steps
    assert 0 < lost <= 0.03 * num_steps


def test_early_gains_do_not_pay_for_long_losses(lengths: DraftLength) -> None:
    record = RequestRecord()
    for _ in range(100):
        lengths.observe_draft(record, "sure", 8, 8, lost=1.0)
    num_losing = 0
    while record.balance > 0:
        lengths.observe_draft(record, "sure", 3, 0, lost=0.2)
        num_losing += 1
    assert num_losing < 20


def test_costs_follow_what_is_measured() -> None:
    costs = StepCosts()
    first = costs.cost(4) / costs.cost(1)
    for _ in range(400):
        costs.observe(1, 0.010)
        costs.observe(4, 0.030)
    assert costs.cost(4) / costs.cost(1) == pytest.approx(3.0, rel=0.1)
    assert first < 2


def test_a_slow_minute_is_not_a_long_step() -> None:
    costs = StepCosts()
    for _ in range(50):
        costs.observe(1, 0.010)
    before = costs.cost(1)
    for _ in range(100):
        costs.observe(1, 0.030)
    assert costs.cost(1) == pytest.approx(before, rel=0.2)


def test_steps_of_a_prompt_are_not_taken_in() -> None:
    costs = StepCosts()
    costs.observe(MAX_TOKENS + 1, 5.0)
    costs.observe(0, 1.0)
    costs.observe(1, 0.01)
    assert costs.cost(1) == 1.0
