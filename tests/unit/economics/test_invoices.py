"""Golden invoices: a provider's usage, streamed and whole, cached and not, to the nano-dollar.

The sums are worked out by hand from the prices of the file beside each case, per million tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.usage import Usage
from headrace.economics.cost import NOTHING, charge, price_call
from headrace.economics.price_files import read_price_file
from headrace.economics.prices import Match, Price, PriceBook, Rates, Schedule
from headrace.economics.usage_formats import StreamUsage, UsageFormat, read_usage

DAY = date(2026, 11, 22)
# claude: 3 / 15, read 0.30, write 3.75 and 6; gpt: 0.15 / 0.60, read 0.075, write 0.1875.
# The others as their providers listed them when the case was seen.
PRICES = """
prices:
  - {provider: anthropic, model: claude, input_per_1m: 3, output_per_1m: 15,
     cache_read_per_1m: 0.30, cache_write_per_1m: 3.75, cache_write_1h_per_1m: 6,
     batch_factor: 0.5}
  - {provider: openai, model: gpt, input_per_1m: 0.15, output_per_1m: 0.60,
     cache_read_per_1m: 0.075, cache_write_per_1m: 0.1875, batch_factor: 0.5}
  - {provider: xai, model: grok, input_per_1m: 1.25, output_per_1m: 2.50, cache_read_per_1m: 0.20}
  - {provider: google, model: gemini, input_per_1m: 0.30, output_per_1m: 2.50,
     cache_read_per_1m: 0.03}
  - {provider: deepseek, model: deepseek, input_per_1m: 0.28, output_per_1m: 0.42,
     cache_read_per_1m: 0.028}
  - {provider: mistral, model: mistral, input_per_1m: 0.40, output_per_1m: 2,
     cache_read_per_1m: 0.04}
  - {provider: groq, model: gpt-oss, input_per_1m: 0.15, output_per_1m: 0.60,
     cache_read_per_1m: 0.075}
"""
Body = dict[str, Any]

CHAT: Body = {"prompt_tokens": 1117, "completion_tokens": 46, "total_tokens": 1163}
CHAT_CACHED: Body = CHAT | {
    "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 40},
}
RESPONSES: Body = {"input_tokens": 1117, "output_tokens": 46, "total_tokens": 1163}
RESPONSES_CACHED: Body = RESPONSES | {
    "input_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 64},
    "output_tokens_details": {"reasoning_tokens": 40},
}
MESSAGES: Body = {"input_tokens": 21, "output_tokens": 393}
MESSAGES_CACHED: Body = {
    "input_tokens": 21,
    "cache_read_input_tokens": 188_086,
    "cache_creation_input_tokens": 2_556,
    "cache_creation": {"ephemeral_5m_input_tokens": 556, "ephemeral_1h_input_tokens": 2_000},
    "output_tokens": 393,
}


def chat_stream(usage: Body) -> list[Body]:
    return [
        {"choices": [{"delta": {"content": "Hi"}}], "usage": None},
        {"choices": [], "usage": usage},
    ]


def responses_stream(usage: Body) -> list[Body]:
    return [
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.output_text.delta", "delta": "Hi"},
        {"type": "response.completed", "response": {"usage": usage}},
    ]


def messages_stream(usage: Body) -> list[Body]:
    """The input in the first event, with 1 token of output; the last event has all of that."""
    return [
        {"type": "message_start", "message": {"usage": usage | {"output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"text": "Hi"}},
        {"type": "message_delta", "usage": {"output_tokens": usage["output_tokens"]}},
    ]


STREAMS: dict[UsageFormat, Callable[[Body], list[Body]]] = {
    "openai_chat": chat_stream,
    "openai_responses": responses_stream,
    "anthropic": messages_stream,
}
# Per million tokens in nano-dollars, so the sum over a million is the bill:
# 1117 x 0.15 + 46 x 0.60 = 167.55 + 27.60 micro-dollars.
# 29 x 0.15 + 1024 x 0.075 + 64 x 0.1875 + 46 x 0.60 = 4.35 + 76.80 + 12.00 + 27.60.
# 21 x 3 + 393 x 15 = 63 + 5895; with 188086 x 0.30 + 556 x 3.75 + 2000 x 6 more.
INVOICES: list[tuple[UsageFormat, Body, int, int]] = [
    ("openai_chat", CHAT, 195_150, 97_575),
    ("openai_chat", CHAT_CACHED, 120_750, 60_375),
    ("openai_responses", RESPONSES, 195_150, 97_575),
    ("openai_responses", RESPONSES_CACHED, 120_750, 60_375),
    ("anthropic", MESSAGES, 5_958_000, 2_979_000),
    ("anthropic", MESSAGES_CACHED, 76_468_800, 38_234_400),
]
# Other servers of OpenAI's API, each with what it words in its own way:
# xAI has reasoning in the total alone. 9992 x 1.25 + 128 x 0.20 + (1499 + 2809) x 2.50
# = 12,490 + 25.60 + 10,770 micro-dollars. Source: the bill of such a call, 232,856,000 ticks of
# 10**-10 dollars, github.com/Wei-Shaw/sub2api/issues/5771.
GROK: Body = {
    "prompt_tokens": 10_120,
    "completion_tokens": 1_499,
    "total_tokens": 14_428,
    "prompt_tokens_details": {"cached_tokens": 128},
    "completion_tokens_details": {"reasoning_tokens": 2_809},
}
# Gemini too, and names it nowhere. 20 x 0.30 + (198 + 405) x 2.50 = 6 + 1507.50.
GEMINI: Body = {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}
# 405 of them in a cache: 15 x 0.30 + 405 x 0.03 + 10 x 2.50 = 4.50 + 12.15 + 25.
GEMINI_CACHED: Body = {
    "prompt_tokens": 420,
    "completion_tokens": 10,
    "total_tokens": 430,
    "prompt_tokens_details": {"cached_tokens": 405},
}
# DeepSeek: hits and misses beside the prompt. 36 x 0.28 + 64 x 0.028 + 30 x 0.42
# = 10.08 + 1.792 + 12.60.
DEEPSEEK: Body = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_cache_hit_tokens": 64,
    "prompt_cache_miss_tokens": 36,
    "completion_tokens_details": {"reasoning_tokens": 12},
}
DEEPSEEK_COLD: Body = DEEPSEEK | {"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 100}
# 0.40 x 74 + 0.04 x 512 + 2 x 21 = 29.60 + 20.48 + 42.
MISTRAL: Body = {
    "prompt_tokens": 586,
    "completion_tokens": 21,
    "total_tokens": 607,
    "prompt_audio_seconds": None,
    "prompt_tokens_details": {"cached_tokens": 512},
}
# 0.15 x 100 + 0.075 x 256 + 0.60 x 40 = 15 + 19.20 + 24; times are no tokens.
GROQ: Body = {
    "queue_time": 0.011,
    "prompt_tokens": 356,
    "prompt_time": 0.004,
    "completion_tokens": 40,
    "completion_time": 0.08,
    "total_tokens": 396,
    "total_time": 0.084,
    "prompt_tokens_details": {"cached_tokens": 256},
    "completion_tokens_details": {"reasoning_tokens": 33},
}
COMPATIBLE: list[tuple[str, str, Body, int]] = [
    ("xai", "grok", GROK, 23_285_600),
    ("xai", "grok", GROK | {"prompt_tokens_details": None}, 23_420_000),
    ("google", "gemini", GEMINI, 1_513_500),
    ("google", "gemini", GEMINI_CACHED, 41_650),
    ("deepseek", "deepseek", DEEPSEEK, 24_472),
    ("deepseek", "deepseek", DEEPSEEK_COLD, 40_600),
    ("mistral", "mistral", MISTRAL, 92_080),
    ("mistral", "mistral", MISTRAL | {"prompt_tokens_details": None}, 276_400),
    ("groq", "gpt-oss", GROQ, 58_200),
    ("groq", "gpt-oss", GROQ | {"prompt_tokens_details": None}, 77_400),
]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    path = tmp_path_factory.mktemp("prices") / "prices.yaml"
    path.write_text(PRICES)
    return PriceBook([read_price_file(path).prices])


def price_of(book: PriceBook, kind: UsageFormat) -> Price:
    names = ("anthropic", "claude") if kind == "anthropic" else ("openai", "gpt")
    price = book.find(*names, DAY)
    assert price is not None
    return price


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("kind", "reported", "nano_usd", "batch_nano_usd"),
    INVOICES,
    ids=[f"{kind}-{'cached' if 'cach' in str(body) else 'plain'}" for kind, body, *_ in INVOICES],
)
def test_invoice(
    book: PriceBook,
    kind: UsageFormat,
    reported: Body,
    nano_usd: int,
    batch_nano_usd: int,
    is_streamed: bool,
) -> None:
    usage = read_usage(kind, json.loads(json.dumps(reported)))
    if is_streamed:
        stream = StreamUsage(kind)
        assert stream.usage is None
        for event in STREAMS[kind](reported):
            stream.see(event)
        assert stream.usage == usage
    assert usage is not None
    price = price_of(book, kind)
    assert price_call([usage], price, DAY, 365).nano_usd == nano_usd
    assert price_call([usage], price, DAY, 365, is_batch=True).nano_usd == batch_nano_usd


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("provider", "model", "reported", "nano_usd"),
    COMPATIBLE,
    ids=[f"{name}-{number}" for number, (name, *_) in enumerate(COMPATIBLE)],
)
def test_invoice_of_a_server_of_the_same_api(
    book: PriceBook, provider: str, model: str, reported: Body, nano_usd: int, is_streamed: bool
) -> None:
    usage = read_usage("openai_chat", reported)
    if is_streamed:
        stream = StreamUsage("openai_chat")
        for event in chat_stream(reported):
            stream.see(event)
        usage = stream.usage
    assert usage is not None
    assert usage.total_tokens == reported["total_tokens"]
    cost = price_call([usage], book.find(provider, model, DAY), DAY, 365)
    assert cost.nano_usd == nano_usd


def test_a_stream_that_is_cut_is_billed_for_what_it_said(book: PriceBook) -> None:
    stream = StreamUsage("anthropic")
    for event in messages_stream(MESSAGES)[:-1]:
        stream.see(event)
    assert stream.usage == Usage(input_tokens=21, output_tokens=1)
    cost = price_call([stream.usage], price_of(book, "anthropic"), DAY, 365)
    assert cost.nano_usd == 78_000


def test_counts_that_a_stream_repeats_are_billed_once() -> None:
    """Anthropic's last event has the input again, without how long each part is kept."""
    stream = StreamUsage("anthropic")
    first, *_ = messages_stream(MESSAGES_CACHED)
    again = {name: value for name, value in MESSAGES_CACHED.items() if name != "cache_creation"}
    for event in (first, {"type": "message_delta", "usage": again | {"server_tool_use": None}}):
        stream.see(event)
    assert stream.usage == read_usage("anthropic", MESSAGES_CACHED)


@pytest.mark.parametrize("reported", [None, {}, [], "x", {"total_tokens": 3}])
@pytest.mark.parametrize("kind", list(STREAMS))
def test_usage_that_is_missing_is_not_nothing(kind: UsageFormat, reported: Any) -> None:
    assert read_usage(kind, reported) is None


def test_a_total_beside_one_count_alone_says_nothing_of_reasoning() -> None:
    assert read_usage("openai_chat", {"completion_tokens": 5, "total_tokens": 12}) == Usage(0, 0, 5)
    assert read_usage("openai_chat", {"prompt_tokens": 8, "total_tokens": 9}) == Usage(8)


def test_a_reported_zero_stays_zero(book: PriceBook) -> None:
    usage = read_usage("openai_chat", {"prompt_tokens": 0, "completion_tokens": 0})
    assert usage == Usage()
    assert price_call([usage], price_of(book, "openai_chat"), DAY, 365).nano_usd == 0


def test_half_a_nano_dollar_is_one_and_is_rounded_once() -> None:
    rates = Rates(input=500_000, output=499_999)
    assert charge(Usage(input_tokens=1), rates) == 1
    assert charge(Usage(output_tokens=1), rates) == 0
    # Apart they would be 1 + 0.
    assert charge(Usage(input_tokens=1, output_tokens=2), rates) == 1
    price = Price(provider="p", model="m", match=Match("equals", "m"), standard=Schedule(rates))
    assert price_call([Usage(input_tokens=1)] * 3, price, DAY, 365).nano_usd == 2


def test_unpriced_is_no_number_and_nothing_computed_costs_nothing() -> None:
    assert price_call([Usage(input_tokens=1)], None, DAY, 365).nano_usd is None
    assert price_call([], None, DAY, 365) is NOTHING
    only_input = Price(
        provider="p", model="m", match=Match("equals", "m"), standard=Schedule(Rates(input=1))
    )
    assert price_call([Usage(output_tokens=1)], only_input, DAY, 365).state == "unpriced"
    both = Schedule(Rates(input=1, output=1))
    own = replace(only_input, standard=both, marginal=only_input.standard)
    assert price_call([Usage(output_tokens=10**6)], own, DAY, 365).nano_usd == 1
    assert price_call([Usage(output_tokens=10**6)], own, DAY, 365).marginal_nano_usd is None


counts = st.integers(0, 10**7)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    fresh, read, short, long = (draw(counts) for _ in range(4))
    said, thought = draw(counts), draw(counts)
    return Usage(
        input_tokens=fresh + read + short + long,
        cached_input_tokens=read,
        output_tokens=said + thought,
        reasoning_tokens=thought,
        cache_write_tokens=short,
        cache_write_1h_tokens=long,
    )


rate = st.integers(0, 10**11)


@given(usages(), rate, rate, st.integers(0, 100))
def test_a_cheaper_cache_never_costs_more(
    usage: Usage, input_rate: int, output_rate: int, percent: int
) -> None:
    rates = Rates(
        input=input_rate, cached_input=input_rate * percent // 100, output=output_rate
    ).resolved()
    cold = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    with_cache, without = charge(usage, rates), charge(cold, rates)
    assert with_cache is not None
    assert without is not None
    assert with_cache <= without


@given(usages(), usages(), rate, rate)
def test_cost_grows_with_every_count(
    usage: Usage, more: Usage, input_rate: int, output_rate: int
) -> None:
    rates = Rates(input=input_rate, output=output_rate).resolved()
    less_cost, more_cost = charge(usage, rates), charge(usage + more, rates)
    assert less_cost is not None
    assert more_cost is not None
    assert less_cost <= more_cost


@given(usages())
def test_to_a_providers_form_and_back(usage: Usage) -> None:
    apart = usage.cached_input_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens
    anthropic = {
        "input_tokens": usage.input_tokens - apart,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
    assert read_usage("anthropic", anthropic) == usage
