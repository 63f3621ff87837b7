"""Limits of a key: taken before, settled after, never overshot."""

from __future__ import annotations

import random

import pytest

from headrace.core.errors import InvalidParameter, RateLimited
from headrace.core.stores import ANONYMOUS, NO_LIMITS, Caller, KeyLimits
from headrace.economics.rate_limits import KeyAccount, RateLimits, Reservation, format_reset


def account(**limits: int) -> KeyAccount:
    return KeyAccount("k", KeyLimits(**limits), 0.0)


def test_a_minute_holds_its_requests_and_refills_evenly() -> None:
    limited = account(requests_per_minute=6)
    for _ in range(6):
        limited.begin(0.0)
    with pytest.raises(RateLimited, match="limited to 6 requests per minute") as caught:
        limited.begin(1.0)
    assert caught.value.retry_after_s == pytest.approx(9.0)
    limited.begin(10.0)
    with pytest.raises(RateLimited):
        limited.begin(19.9)
    limited.begin(20.0)


def test_waiting_as_long_as_it_says_is_enough_and_less_is_not() -> None:
    source, now_s, num_refused = random.Random(5), 0.0, 0
    limited = account(input_tokens_per_minute=900, output_tokens_per_minute=70)
    for _ in range(300):
        now_s += source.random()
        wanted = source.randrange(1, 900), source.randrange(1, 70)
        try:
            limited.reserve(*wanted, now_s)
        except RateLimited as refused:
            num_refused += 1
            with pytest.raises(RateLimited):
                limited.reserve(*wanted, now_s + 0.99 * refused.retry_after_s)
            now_s += refused.retry_after_s + 1e-6
            limited.reserve(*wanted, now_s)
    assert num_refused > 200


def test_requests_at_a_time() -> None:
    limited = account(max_concurrent_requests=2)
    limited.begin(0.0)
    limited.begin(0.0)
    with pytest.raises(RateLimited, match="2 requests in progress; its limit is 2"):
        limited.begin(0.0)
    limited.end()
    limited.begin(0.0)


def test_what_was_not_used_is_given_back_and_what_was_beyond_is_a_debt() -> None:
    limited = account(output_tokens_per_minute=100, input_tokens_per_minute=100)
    held = limited.reserve(10, 100, 0.0)
    with pytest.raises(RateLimited, match="100 output tokens per minute and has 0 left"):
        limited.reserve(1, 1, 0.0)
    limited.settle(held, 90, 5, 0.0)
    assert limited.headers(0.0)["x-ratelimit-remaining-output-tokens"] == "95"
    assert limited.headers(0.0)["x-ratelimit-remaining-input-tokens"] == "10"
    held = limited.reserve(10, 1, 0.0)
    limited.settle(held, 130, 1, 0.0)
    with pytest.raises(RateLimited) as caught:
        limited.reserve(1, 1, 0.0)
    assert caught.value.retry_after_s == pytest.approx(121 * 0.6)


def test_both_or_nothing() -> None:
    limited = account(input_tokens_per_minute=100, output_tokens_per_minute=100)
    limited.reserve(0, 90, 0.0)
    with pytest.raises(RateLimited):
        limited.reserve(50, 20, 0.0)
    assert limited.headers(0.0)["x-ratelimit-remaining-input-tokens"] == "100"


def test_an_answer_that_never_fits_is_refused_for_good_and_a_long_prompt_is_not() -> None:
    limited = account(input_tokens_per_minute=100, output_tokens_per_minute=100)
    limited.check_size(100, 1, 1)
    limited.check_size(50, 2, 2)
    limited.check_size(None, 1, 100)
    for max_tokens, n, num_answers, told in (
        (101, 1, 1, "max_tokens is 101; allowed: at most 100, as the key hr_k is limited to 100 "),
        (60, 2, 2, "max_tokens is 60; allowed: at most 50 tokens for each of 2 answers"),
        (26, 2, 4, "max_tokens is 26; allowed: at most 25 tokens for each of 4 answers"),
        (None, 101, 101, "n is 101; allowed: at most 100 answers to all prompts, as the key"),
    ):
        with pytest.raises(InvalidParameter, match=told):
            limited.check_size(max_tokens, n, num_answers)
    held = limited.reserve(1000, 1, 0.0)
    limited.settle(held, 1000, 1, 0.0)
    with pytest.raises(RateLimited) as waits:
        limited.reserve(1, 1, 0.0)
    assert waits.value.retry_after_s > 540


def test_the_first_of_a_call_waits_for_all_and_the_others_leave_a_debt() -> None:
    limited = account(input_tokens_per_minute=100, output_tokens_per_minute=100)
    limited.reserve(80, 40, 0.0)
    with pytest.raises(RateLimited) as waits:
        limited.reserve(20, 40, 0.0, call_output_tokens=80)
    assert waits.value.retry_after_s == pytest.approx(12)
    limited.reserve(20, 40, 12.0, call_output_tokens=80)
    limited.reserve(80, 40, 12.0, is_further=True)
    with pytest.raises(RateLimited) as waits:
        limited.reserve(1, 0, 12.0)
    assert waits.value.retry_after_s == pytest.approx(61 * 0.6)


@pytest.mark.parametrize("seed", range(5))
def test_random_traffic_never_overshoots(seed: int) -> None:
    """In any span, finished and running answers have at most a minute's worth and its refill."""
    source, now_s = random.Random(seed), 0.0
    rate, at_a_time = 600, 5
    limited = account(
        output_tokens_per_minute=rate, max_concurrent_requests=at_a_time, requests_per_minute=300
    )
    running: list[tuple[Reservation, int]] = []
    used: list[tuple[float, int]] = []
    for _ in range(2000):
        now_s += source.expovariate(10.0)
        if running and source.random() < 0.5:
            held, tokens = running.pop(source.randrange(len(running)))
            limited.settle(held, 0, tokens, now_s)
            limited.end()
            used.append((now_s, tokens))
            continue
        try:
            limited.begin(now_s)
        except RateLimited:
            continue
        try:
            held = limited.reserve(0, source.randrange(1, 200), now_s)
            running.append((held, source.randrange(held.output_tokens + 1)))
        except RateLimited:
            limited.end()
        assert len(running) <= at_a_time
    assert len(used) > 100
    for begin_s in range(0, int(now_s), 7):
        for span_s in (1, 10, 60):
            spent = sum(n for at_s, n in used if begin_s <= at_s < begin_s + span_s)
            held_before = at_a_time * 200
            assert spent <= rate + rate * span_s / 60 + held_before
    assert sum(n for _, n in used) <= rate + rate * now_s / 60
    for held, _ in running:
        limited.settle(held, 0, 0, now_s)
        limited.end()
    assert limited.headers(now_s + 60)["x-ratelimit-remaining-output-tokens"] == str(rate)


def test_headers_of_a_full_account() -> None:
    limited = account(
        requests_per_minute=60, input_tokens_per_minute=1000, output_tokens_per_minute=600
    )
    limited.begin(0.0)
    limited.reserve(100, 60, 0.0)
    assert limited.headers(0.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1600",
        "x-ratelimit-remaining-tokens": "1440",
        "x-ratelimit-reset-tokens": "6s",
        "x-ratelimit-limit-input-tokens": "1000",
        "x-ratelimit-remaining-input-tokens": "900",
        "x-ratelimit-reset-input-tokens": "6s",
        "x-ratelimit-limit-output-tokens": "600",
        "x-ratelimit-remaining-output-tokens": "540",
        "x-ratelimit-reset-output-tokens": "6s",
    }
    assert account(max_concurrent_requests=1).headers(0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0ms"), (0.0121, "13ms"), (0.012, "12ms"), (1.0, "1s"), (1.5, "1.5s")),
        *((59.999, "59.999s"), (360.0, "6m0s"), (61.2, "1m2s"), (7200.0, "120m0s")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_reset(seconds) == text


def test_one_account_for_each_key_that_has_limits() -> None:
    limits = RateLimits()
    limited = Caller("t", "a", KeyLimits(requests_per_minute=1))
    assert limits.account(ANONYMOUS, 0.0) is None
    assert limits.account(Caller("t", "b", NO_LIMITS), 0.0) is None
    assert limits.account(limited, 0.0) is limits.account(limited, 5.0)
    other = Caller("t", "c", KeyLimits(requests_per_minute=1))
    assert limits.account(limited, 0.0) is not limits.account(other, 0.0)
