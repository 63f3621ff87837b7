"""Answers that go round in circles: found where vLLM finds them, whatever guesses there were."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from fakes.byte_tokenizer import EOS
from fakes.running_engine import ask, collect, running_engine, script
from fakes.scheduling import make_spec
from headrace.cache.block_table import BlockTable
from headrace.core.errors import InvalidParameter
from headrace.core.request import RepetitionDetection, SamplingParams
from headrace.sched.request_state import RequestState
from headrace.sched.stop import ends_in_circles, find_stop


def has_pattern(output: Sequence[int], wanted: RepetitionDetection) -> bool:
    """The definition: some size of pattern whose last copies are all equal."""
    for size in range(max(1, wanted.min_pattern_size), wanted.max_pattern_size + 1):
        copies = [
            tuple(output[len(output) - size * (n + 1) : len(output) - size * n])
            for n in range(wanted.min_count)
        ]
        is_long_enough = size * wanted.min_count <= len(output)
        if is_long_enough and len(set(copies)) == 1:
            return True
    return False


def test_it_is_found_where_its_definition_says() -> None:
    source, num_found = random.Random(5), 0
    for _ in range(4000):
        largest = source.randrange(1, 6)
        wanted = RepetitionDetection(
            max_pattern_size=largest,
            min_pattern_size=source.randrange(largest + 1),
            min_count=source.randrange(2, 5),
        )
        prompt = [source.randrange(2) for _ in range(source.randrange(1, 12))]
        output = [source.randrange(2) for _ in range(source.randrange(1, 20))]
        found = ends_in_circles(prompt + output, len(output), wanted)
        assert found == has_pattern(output, wanted), (prompt, output, wanted)
        num_found += found
    assert 500 < num_found < 3500


def state_of(output: tuple[int, ...], **sampling: object) -> RequestState:
    wanted = RepetitionDetection(max_pattern_size=3, min_count=3)
    params = SamplingParams(max_tokens=20, repetition_detection=wanted, **sampling)  # type: ignore[arg-type]
    spec = make_spec("r", (9, 9, 9), 20, sampling=params, eos_token_ids=(5,))
    request = RequestState(spec, BlockTable(b""), (0,), 100, 0.0)
    request.token_ids += output
    return request


@pytest.mark.parametrize(
    ("output", "sampling", "reason"),
    [
        ((1, 2, 1, 2, 1), {}, None),
        ((1, 2, 1, 2, 1, 2), {}, "repetition"),
        ((9,), {}, None),  # a prompt repeats what it likes
        ((7, 7, 7), {"min_tokens": 4}, None),
        ((7, 7, 7, 7), {"min_tokens": 4}, "repetition"),
        ((5, 5, 5), {}, "stop"),
        ((7,) * 20, {}, "length"),
    ],
)
def test_what_ends_an_answer_first(
    output: tuple[int, ...], sampling: dict[str, int], reason: str | None
) -> None:
    assert find_stop(state_of(output, **sampling)) == (reason, None)


async def test_an_answer_ends_with_vllms_words() -> None:
    wanted = RepetitionDetection(max_pattern_size=4, min_count=3)
    async with running_engine(script("So: abcabcabcabcabc", EOS)) as running:
        request = ask("hi", max_tokens=64, repetition_detection=wanted)
        (delta,) = (await collect(running.backend, request)).deltas
        assert (delta.text, delta.finish_reason) == ("So: abcabcabc", "repetition")
        assert delta.stop_reason == "repetition_detected"
        whole = ask("hi", max_tokens=64)
        assert (await collect(running.backend, whole)).deltas[0].text == "So: abcabcabcabcabc"
        assert running.metrics.counters["vllm:request_success_total:repetition"] == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"max_pattern_size": 5}, "min_count is 0; allowed: a whole number from 2 to"),
        ({"max_pattern_size": 5, "min_count": 1}, "min_count is 1"),
        ({"max_pattern_size": -1}, "max_pattern_size is -1; allowed: a whole number from 0 to"),
        ({"max_pattern_size": 2000, "min_count": 2}, "from 0 to 1024"),
        (
            {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2},
            r"min_pattern_size is 3; allowed: a whole number from 0 to max_pattern_size \(2\)",
        ),
    ],
)
def test_sizes_that_make_no_sense(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        RepetitionDetection(**sizes)


def test_nothing_is_looked_for_without_a_size() -> None:
    assert not ends_in_circles([1, 1, 1, 1], 4, RepetitionDetection())
