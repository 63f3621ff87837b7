"""How many tokens are drafted: what pays, and never much that does not."""

from __future__ import annotations

import pytest

from headrace.spec.draft_length import (
    MAX_CREDIT,
    MAX_DRAFT_TOKENS,
    MIN_CREDIT,
    DraftLength,
    NextStep,
    RequestRecord,
)
from headrace.spec.step_costs import MAX_TOKENS, PassCosts, StepCosts


@pytest.fixture
def lengths() -> DraftLength:
    return DraftLength({"sure": 0.9, "unsure": 0.3})


def falling(rate: float, count: int) -> list[float]:
    return [rate**place for place in range(1, count + 1)]


def test_the_likelier_the_longer(lengths: DraftLength) -> None:
    chosen = [lengths.choose(1, [falling(rate, 50)])[0] for rate in (0.0, 0.2, 0.5, 0.8, 0.99)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == MAX_DRAFT_TOKENS


def test_no_more_than_there_is(lengths: DraftLength) -> None:
    assert lengths.choose(1, [falling(0.99, 3)]) == [3]


def test_a_full_step_has_no_room_for_guesses(lengths: DraftLength) -> None:
    assert lengths.choose(MAX_TOKENS, [falling(0.99, 9)] * MAX_TOKENS) == [0] * MAX_TOKENS
    few, many = (sum(lengths.choose(n, [falling(0.6, 9)] * n)) / n for n in (1, 16))
    assert many < few


def test_the_likely_come_first(lengths: DraftLength) -> None:
    likely, unlikely = lengths.choose(2, [falling(0.95, 9), falling(0.2, 9)])
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


def test_a_draft_model_guesses_while_a_pass_pays() -> None:
    for ratio, rate, wanted in ((0.4, 0.8, 1), (0.4, 0.3, 0), (0.9, 0.8, 0), (0.01, 0.2, 1)):
        lengths = DraftLength({}, pass_ratio=ratio)
        assert lengths.num_paying(NextStep(1, 1, 1.0), [rate]) == wanted


def test_a_draft_model_guesses_for_those_that_gain() -> None:
    lengths = DraftLength({}, pass_ratio=0.2)
    assert lengths.num_paying(NextStep(3, 3, 3.0), [0.95, 0.9, 0.05]) == 2


def test_a_draft_model_pays_for_few_requests_only() -> None:
    lengths = DraftLength({}, pass_ratio=0.4)
    speeds = [lengths.speed_up(count, 0.8) for count in (1, 2, 8, MAX_TOKENS)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] > 1.15
    assert speeds[-2:] == [1.0, 1.0]


def test_credit_is_bounded() -> None:
    lengths = DraftLength({})
    lengths.settle_credit(1000.0)
    assert lengths.credit == MAX_CREDIT
    lengths.settle_credit(-1000.0)
    assert lengths.credit == MIN_CREDIT


def test_a_pass_costs_what_it_took() -> None:
    costs = PassCosts(0.3)
    before = costs.cost(100)
    for _ in range(100):
        costs.observe(1, 0.6)
    assert costs.cost(1) == pytest.approx(0.6, rel=0.02)
    assert costs.cost(100) == before
    for _ in range(100):
        costs.observe(100, 4.0)
    assert costs.cost(100) == pytest.approx(4.0, rel=0.02)
