"""Answers that are kept: for whom, for what, how long, how many."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.fake_clock import FakeClock
from fakes.upstreams import ask
from headrace.core.cache_control import CacheControl
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.output import CompletionDelta, RequestOutput, RequestTimes, ToolCallDelta
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.routing_config import CacheConfig
from headrace.core.usage import Usage
from headrace.router.response_cache import ResponseCache, join_outputs


def outputs(*texts: str, **last: object) -> list[RequestOutput]:
    deltas = [CompletionDelta(0, text) for text in texts]
    deltas[-1] = replace(deltas[-1], finish_reason="stop", **last)  # type: ignore[arg-type]
    steps = [
        RequestOutput("old", (delta,), Usage(3, output_tokens=n + 1), n == len(deltas) - 1)
        for n, delta in enumerate(deltas)
    ]
    return [*steps[:-1], replace(steps[-1], times=RequestTimes(0.1, 0.2, 0.3, 0.1, 0.1))]


def keep(cache: ResponseCache, request: GenerateRequest, *texts: str) -> str:
    key = cache.key_of(request)
    assert key is not None
    cache.keep(key, request, outputs(*texts))
    return key


def test_an_old_answer_in_one_piece() -> None:
    cache = ResponseCache(CacheConfig(), FakeClock())
    request = ask(sampling=SamplingParams(seed=1))
    key = keep(cache, request, "a", "b")
    again = replace(
        request,
        request_id="new",
        call_id="c",
        patience_s=3.0,
        priority=4,
        cache_key="other",
        is_whole=True,
        sampling=SamplingParams(seed=2),
    )
    assert cache.key_of(again) == key
    found = cache.find(key, again)
    assert found is not None
    assert found.request_id == "new"
    assert found.deltas == (CompletionDelta(0, "ab", finish_reason="stop"),)
    assert found.usage == Usage(3, output_tokens=2)
    assert found.times is None  # of this call the engine spent none


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "other"},
        {"cache_salt": "x"},
        {"model": "auto:cheap"},
        {"task": "write"},
        {"messages": (Message("user", "one  two"),)},
        {"messages": (Message("system", "s"), Message("user", "one two"))},
        {"sampling": SamplingParams(max_tokens=4)},
        {"sampling": SamplingParams(max_tokens=3, temperature=0.0)},
        {"sampling": SamplingParams(max_tokens=3, logprobs=1)},
        {"default_max_tokens": 9},
        {"chat_template_kwargs": {"style": "x"}},
        {"cache_control": CacheControl(namespace="n")},
        {"cache_control": CacheControl(is_seeded=True)},
    ],
)
def test_whatever_can_change_an_answer_is_part_of_the_question(other: dict[str, object]) -> None:
    cache = ResponseCache(CacheConfig(), FakeClock())
    key = keep(cache, replace(ask(), sampling=SamplingParams(max_tokens=3, seed=1)), "a")
    changed = replace(ask(), sampling=SamplingParams(max_tokens=3, seed=1))
    assert cache.key_of(replace(changed, **other)) != key  # type: ignore[arg-type]
    assert cache.key_of(changed) == key


def test_nothing_with_tools() -> None:
    cache = ResponseCache(CacheConfig(), FakeClock())
    with_tools = ask(tools=(Tool("f"),))
    assert cache.key_of(with_tools) is None
    assert cache.key_of(replace(with_tools, tool_choice=ToolChoice("none"))) is not None
    key = cache.key_of(ask()) or ""
    call = (ToolCallDelta(0, "c", "f"),)
    cache.keep(key, ask(), outputs("a", tool_calls=call))
    assert len(cache) == 0


def test_an_answer_that_did_not_end_is_not_kept() -> None:
    cache = ResponseCache(CacheConfig(), FakeClock())
    cache.keep("k", ask(), outputs("a", "b")[:1])
    cache.keep("k", ask(), [])
    assert len(cache) == 0
    assert join_outputs(outputs("a", "b")[:1]) is None


def test_ages() -> None:
    clock = FakeClock()
    cache = ResponseCache(CacheConfig(ttl_s=100), clock)
    key = keep(cache, ask(), "a")
    clock.advance(50)
    assert cache.find(key, ask()) is not None
    assert cache.find(key, ask(cache_control=CacheControl(max_age_s=49))) is None
    assert cache.find(key, ask(cache_control=CacheControl(max_age_s=51))) is not None
    clock.advance(50)
    assert cache.find(key, ask()) is None
    assert (len(cache), cache.num_bytes) == (0, 0)
    short = ask(cache_control=CacheControl(ttl_s=10))
    cache.keep(key, short, outputs("a"))
    clock.advance(10)
    assert cache.find(key, short) is None
    cache.keep(key, ask(cache_control=CacheControl(ttl_s=1000)), outputs("a"))
    clock.advance(100)
    assert cache.find(key, ask()) is None
    cache.keep(key, ask(cache_control=CacheControl(ttl_s=0)), outputs("a"))
    assert len(cache) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 800)), max_size=60))
def test_the_bounds_hold_and_the_newest_stays(kept: list[tuple[int, int]]) -> None:
    config = CacheConfig(max_bytes=8000, max_entries=3)
    cache = ResponseCache(config, FakeClock())
    for name, length in kept:
        cache.keep(str(name), ask(), outputs("x" * length))
        assert len(cache) <= config.max_entries
        assert cache.num_bytes <= config.max_bytes
        assert cache.find(str(name), ask()) is not None
    for name in {str(name) for name, _ in kept}:
        cache._drop(name)
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_the_least_recently_used_goes_first() -> None:
    cache = ResponseCache(CacheConfig(max_entries=2), FakeClock())
    for name in ("a", "b"):
        cache.keep(name, ask(), outputs(name))
    cache.find("a", ask())
    cache.keep("c", ask(), outputs("c"))
    assert [cache.find(name, ask()) is not None for name in "abc"] == [True, False, True]
