"""How many tokens are drafted: what pays, and never much that does not."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from headrace.spec.draft_length import (
    MAX_CREDIT,
    MAX_DRAFT_TOKENS,
    MAX_PURSE,
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


def choose(lengths: DraftLength, num_requests: int, chances: list[list[float]]) -> list[int]:
    """Where no account bounds what may be lost."""
    return lengths.choose(num_requests, chances, [inf] * len(chances))


def test_the_likelier_the_longer(lengths: DraftLength) -> None:
    chosen = [choose(lengths, 1, [falling(rate, 50)])[0] for rate in (0.0, 0.2, 0.5, 0.8, 0.99)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == MAX_DRAFT_TOKENS


def test_no_more_than_there_is(lengths: DraftLength) -> None:
    assert choose(lengths, 1, [falling(0.99, 3)]) == [3]


def test_a_full_step_has_no_room_for_guesses(lengths: DraftLength) -> None:
    assert choose(lengths, MAX_TOKENS, [falling(0.99, 9)] * MAX_TOKENS) == [0] * MAX_TOKENS
    few, many = (sum(choose(lengths, n, [falling(0.6, 9)] * n)) / n for n in (1, 16))
    assert many < few


def test_the_likely_come_first(lengths: DraftLength) -> None:
    likely, unlikely = choose(lengths, 2, [falling(0.95, 9), falling(0.2, 9)])
    assert likely > unlikely


def test_it_learns_from_the_request_and_from_all(lengths: DraftLength) -> None:
    record, other = RequestRecord(), RequestRecord()
    before = lengths.hit_rate(record, "sure")
    for _ in range(20):
        lengths.observe_draft(record, "sure", 4, 0, lost=0.1)
    assert lengths.hit_rate(record, "sure") < 0.2 < before
    assert lengths.hit_rate(record, "sure") < lengths.hit_rate(other, "sure") < before
    assert lengths.hit_rate(record, "unsure") == pytest.approx(0.3)


def hostile_set(
    lengths: DraftLength, num_answers: int, num_tokens: int, num_right: Callable[[int], int]
) -> tuple[int, float]:
    """Tokens of some answers, one after the other, and the steps that they took.

    Each draft looks sure; `num_right` says how many of its tokens are.
    """
    num_found, num_steps = 0, 0.0
    for _ in range(num_answers):
        record, count = RequestRecord(), 0
        while count < num_tokens:
            (drafted,) = lengths.choose(1, [falling(0.99, 15)], [record.balance])
            num_hits = min(drafted, num_right(drafted), num_tokens - count - 1)
            num_steps += lengths.costs.cost(1 + drafted)
            count += 1 + num_hits
            if drafted:
                lost = drafted * lengths.loss(1, drafted)
                lengths.observe_draft(record, "sure", drafted, num_hits, lost)
            else:
                lengths.observe_alone(record)
        num_found += count
        lengths.close(record)
    return num_found, num_steps


@pytest.mark.parametrize("num_tokens", [1, 3, 12, 40, 400])
@pytest.mark.parametrize("num_first", [0, 9])
def test_the_worst_set_of_prompts_is_no_slower_than_it_may_be(
    lengths: DraftLength, num_tokens: int, num_first: int
) -> None:
    """Whatever the rates say, the machine does as the costs say, and gains came before or not."""
    if num_first:
        hostile_set(lengths, 5, 60, lambda drafted: num_first)
    num_answers = -(-400 // num_tokens)
    num_found, num_steps = hostile_set(lengths, num_answers, num_tokens, lambda drafted: 0)
    assert num_found >= 400
    assert num_found / num_steps >= 0.97


def test_texts_that_are_right_until_the_accounts_are_full_gain(lengths: DraftLength) -> None:
    """Right, then wrong as often as the account lets it."""
    turns = iter(range(10**6))
    num_found, num_steps = hostile_set(
        lengths, 8, 200, lambda drafted: drafted if next(turns) % 3 == 0 else 0
    )
    assert num_found / num_steps > 0.99


def test_an_answer_that_copies_is_found_though_all_before_it_lost(lengths: DraftLength) -> None:
    hostile_set(lengths, 50, 12, lambda drafted: 0)
    num_found, num_steps = hostile_set(lengths, 1, 60, lambda drafted: drafted)
    assert num_found / num_steps > 2


@pytest.mark.parametrize("purse", [0.0, 0.3, 1.0])
def test_no_draft_can_lose_more_than_there_is_room_for(lengths: DraftLength, purse: float) -> None:
    lengths.purse = purse
    for rooms in ([0.0, 0.0], [0.05, 2.0], [0.32, 0.32], [1.5, inf], [-1.0, 0.7]):
        chosen = lengths.choose(2, [falling(0.99, 15)] * 2, rooms)
        if any(chosen):
            lost = lengths.loss(2, sum(chosen))
            beyond = [
                max(count * lost - max(room, 0.0), 0.0)
                for count, room in zip(chosen, rooms, strict=True)
            ]
            assert sum(beyond) <= purse + 1e-9
        assert rooms[0] >= 0 or not chosen[0]
    assert lengths.choose(2, [falling(0.99, 15)] * 2, [0.0, 2.0])[1] > 2


def test_early_gains_do_not_pay_for_long_losses(lengths: DraftLength) -> None:
    record = RequestRecord()
    for _ in range(100):
        lengths.observe_draft(record, "sure", 8, 8, lost=1.0)
    assert lengths.purse == MAX_PURSE
    num_losing = 0
    while record.balance > 0 and lengths.purse > 0:
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


def test_what_a_disturbed_minute_taught_of_passes_is_forgotten() -> None:
    """Passes that do not pay are not taken, so nothing else would ever correct it."""
    lengths = DraftLength({}, pass_ratio=0.4)
    step = NextStep(1, 1, 1.0)
    assert lengths.num_paying(step, [0.8]) == 1
    for _ in range(20):
        lengths.pass_costs.observe(1, 4.0)
    assert lengths.num_paying(step, [0.8]) == 0
    for _ in range(1000):
        lengths.pass_costs.rest()
    assert lengths.num_paying(step, [0.8]) == 1
    for _ in range(50):
        lengths.pass_costs.observe(1, 0.2)
    cheap = lengths.pass_costs.cost(1)
    lengths.pass_costs.rest()
    assert lengths.pass_costs.cost(1) == cheap  # what is cheaper than thought is seen again
