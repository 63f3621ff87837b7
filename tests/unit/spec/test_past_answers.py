"""Answers that have ended: found by who said them, and let go of in time."""

from __future__ import annotations

import random

import pytest

from headrace.spec.past_answers import MIN_MATCH, NUM_SEGMENTS, PastAnswers
from headrace.spec.prompt_lookup import MAX_MATCH

ME, OTHER, SALTED = ("me", ""), ("other", ""), ("me", "salt")


def said(past: PastAnswers, owner: tuple[str, str], tail: list[int]) -> tuple[int, ...] | None:
    match = past.find(owner, tail)
    return None if match is None else match.segment.read(match.start, 4)


def test_what_followed_at_the_longest_place() -> None:
    past = PastAnswers(1000)
    past.add(ME, [1, 2, 3, 4, 5, 6, 7])
    past.add(ME, [9, 2, 3, 4, 5, 8, 8])
    assert said(past, ME, [0, 1, 2, 3, 4, 5]) == (6, 7)
    assert said(past, ME, [0, 9, 2, 3, 4, 5]) == (8, 8)
    assert said(past, ME, [2, 3, 4, 5]) == (8, 8)  # of equals the newest
    assert said(past, ME, [3, 4, 5]) is None
    assert said(past, ME, [7, 7, 7, 7, 7]) is None


def test_an_answer_ends_where_it_ended() -> None:
    past = PastAnswers(1000)
    past.add(ME, [1, 2, 3, 4, 5])
    past.add(ME, [6, 7, 8, 9, 10])
    assert said(past, ME, [2, 3, 4, 5]) == ()
    assert said(past, ME, [4, 5, 6, 7]) is None
    match = past.find(ME, [3, 3, 6, 7, 8, 9])
    assert match is not None
    assert match.num_tokens == MIN_MATCH


def test_nobody_finds_what_another_tenant_or_salt_said() -> None:
    past = PastAnswers(1000)
    past.add(ME, [1, 2, 3, 4, 5])
    for stranger in (OTHER, SALTED, ("", "")):
        assert past.find(stranger, [1, 2, 3, 4]) is None
    past.add(SALTED, [1, 2, 3, 4, 6])
    assert said(past, ME, [1, 2, 3, 4]) == (5,)
    assert said(past, SALTED, [1, 2, 3, 4]) == (6,)


def test_whoever_fills_it_loses_its_own_oldest() -> None:
    past = PastAnswers(320)
    past.add(OTHER, [1, 2, 3, 4, 5])
    for start in range(100, 1100, 10):
        past.add(ME, list(range(start, start + 10)))
    assert past.num_tokens <= 320
    assert past.find(OTHER, [1, 2, 3, 4]) is not None
    assert past.find(ME, [100, 101, 102, 103]) is None
    assert past.find(ME, [1090, 1091, 1092, 1093]) is not None


def test_of_many_the_one_who_was_away_longest_goes() -> None:
    past = PastAnswers(320)
    for owner in range(100):
        past.add((f"tenant {owner}", ""), list(range(10)))
        past.add(ME, [1, 2, 3, 4, owner])
    assert past.num_tokens <= 320
    assert past.find(("tenant 0", ""), [0, 1, 2, 3]) is None
    assert past.find(("tenant 99", ""), [0, 1, 2, 3]) is not None
    assert said(past, ME, [1, 2, 3, 4]) == (99,)


@pytest.mark.parametrize("max_tokens", [1, 5, NUM_SEGMENTS, 200])
def test_it_never_holds_more_than_it_may(max_tokens: int) -> None:
    source, past = random.Random(3), PastAnswers(max_tokens)
    for _ in range(300):
        owner = (f"tenant {source.randrange(5)}", "")
        past.add(owner, [source.randrange(4) for _ in range(source.randrange(60))])
        held = sum(len(s.token_ids) for segments in past._owners.values() for s in segments)
        assert held == past.num_tokens <= max_tokens


def test_it_finds_what_a_plain_search_finds() -> None:
    source, past = random.Random(5), PastAnswers(10**6)
    answers = [[source.randrange(12) for _ in range(90)] for _ in range(4)]
    for answer in answers:
        past.add(ME, answer)
    for _ in range(60):
        tail = [source.randrange(12) for _ in range(9)]
        answer = source.choice(answers)
        if source.random() < 0.7:
            end = source.randrange(9, 80)
            tail = answer[end - 9 : end]
        match = past.find(ME, tail[-MAX_MATCH:])
        longest = max(_longest(each, tail) for each in answers)
        assert (match is not None) == (longest >= MIN_MATCH)
        if match is not None:
            assert match.num_tokens == longest


def _longest(answer: list[int], tail: list[int]) -> int:
    found = 0
    for end in range(len(answer) + 1):
        count = 0
        while count < min(end, len(tail)) and answer[end - 1 - count] == tail[-1 - count]:
            count += 1
        found = max(found, count)
    return found
