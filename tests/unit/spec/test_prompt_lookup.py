"""Prompt lookup against a search that looks at every place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.spec.prompt_lookup import MAX_MATCH, PREDICTED_MATCH, Match, PromptLookup


def slow_search(text: list[int]) -> int:
    """The length of the longest end of a text that stands in it before."""
    best = 0
    for place in range(1, len(text)):
        count = 0
        while count < min(place, MAX_MATCH) and text[place - 1 - count] == text[-1 - count]:
            count += 1
        best = max(best, count)
    return best if best >= 2 else 0


@given(st.lists(st.integers(0, 3), max_size=24), st.lists(st.integers(0, 3), max_size=16))
def test_it_finds_the_longest_match(prompt: list[int], output: list[int]) -> None:
    lookup = PromptLookup(prompt)
    lookup.append(output)
    text = prompt + output
    match = lookup.find()
    assert (match.num_tokens if match else 0) == slow_search(text)
    if match is not None:
        start, length = match
        assert text[start - length : start] == text[len(text) - length :]
        rest = lookup.read(match, 50)
        assert len(rest) == 50
        repeated = text[start:]
        assert list(rest) == (repeated * (50 // len(repeated) + 1))[:50]


def test_the_newest_of_equal_places() -> None:
    lookup = PromptLookup([1, 2, 3, 1, 2, 4, 1, 2])
    match = lookup.find()
    assert match == Match(5, 2)
    assert lookup.read(match, 3) == (4, 1, 2)


def test_an_answer_begins_like_its_prediction() -> None:
    lookup = PromptLookup([7, 8], predicted=[1, 2, 3, 4])
    assert lookup.find() == Match(0, PREDICTED_MATCH)
    lookup.append([1])
    match = lookup.find()
    assert match == Match(1, PREDICTED_MATCH)
    assert lookup.read(match, 9) == (2, 3, 4)


def test_an_answer_that_left_its_prediction_comes_back_to_it() -> None:
    lookup = PromptLookup([7, 8], predicted=[1, 2, 3, 4, 5, 6])
    lookup.append([9])
    assert lookup.find() is None
    lookup.append([3, 4])
    assert lookup.find() == Match(4, 2)


def test_nothing_reaches_over_the_end_of_the_prediction() -> None:
    lookup = PromptLookup([3, 4], predicted=[1, 2])
    lookup.append([2, 3])
    assert lookup.find() is None
    assert lookup.read(Match(1, 1), 5) == (2,)


def test_texts_of_one_token_and_of_none() -> None:
    assert PromptLookup([]).find() is None
    assert PromptLookup([5]).find() is None
