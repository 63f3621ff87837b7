"""Hedges, self-checks, shadows and learned destinations over real sockets: who answers, what is
paid, and what every answer and its row say of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fakes.completion_server import Exchange, answer, text
from fakes.fake_backend import FakeBackend
from fakes.routed import chat, client_of, far, route, settled, texts, tiers
from fakes.served_app import RunningServer, run_server
from fakes.upstreams import ask, events, hang_up, scripted, stall, stall_after
from headrace.config.routing import make_routing
from headrace.core.errors import ConfigError
from headrace.core.output import CompletionDelta
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.routing_config import RoutingConfig
from headrace.core.telemetry import NoMetrics
from headrace.economics.most_cost import most_it_costs
from headrace.economics.prices import PriceBook
from headrace.launch.prices import tier_prices
from headrace.launch.tiers import open_tiers
from headrace.router.features import read_facts
from headrace.router.route_features import feature_values
from headrace.router.route_fit import LabelledRow, fit_route_model
from headrace.router.router import Router
from headrace.router.shadow_log import read_records

PRICE_A = {"input_per_1m": 1, "output_per_1m": 2}
PRICE_B = {"input_per_1m": 10, "output_per_1m": 20}
ANSWER = "Hello, wörld 🌊!"


@pytest.fixture(scope="module")
def near() -> Iterator[RunningServer]:
    """A headrace server."""
    with run_server() as server:
        yield server


def hedged(url: str, near: RunningServer, **hedge: Any) -> dict[str, Any]:
    """A slow backend before a quick one; every call may be hedged."""
    members = [
        {"model": "tiny", "upstream": "slow", "price": PRICE_A},
        {"model": "tiny", "upstream": "near", "price": PRICE_B},
    ]
    hedge = {"after_s": 0.01, "max_share": 1.0, **hedge}
    return {
        "upstreams": {"slow": far(url), "near": far(f"{near.address}/v1")},
        "tiers": {"cheap": {"backends": members, "hedge": hedge}},
    }


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_slow_backend_is_outrun_and_both_are_paid_and_shown(
    near: RunningServer, is_stream: bool
) -> None:
    async with scripted(stall) as slow:
        with route(hedged(slow.url, near)) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat(stream=is_stream))
            main, part = await settled(rows, 2)
    said = texts(reply.text) if is_stream else reply.json()["choices"][0]["message"]["content"]
    assert said == ANSWER
    assert reply.headers["x-headrace-selected-backend"] == "near/tiny"
    assert reply.headers["x-headrace-selected-reason"] == "default, hedged"
    assert reply.headers["x-headrace-attempts"].startswith("cheap/slow/tiny ")
    assert reply.headers["x-headrace-attempted-fallbacks"] == "0"
    assert (main.backend, main.route_reason) == ("near/tiny", "default, hedged")
    assert main.cost_nano_usd == 7 * 10_000 + 5 * 20_000
    # 7 // 3 + 4 tokens of the prompt: it said nothing of them.
    assert (part.backend, part.is_part, part.route_reason) == ("slow/tiny", 1, "hedge")
    assert (part.usage_source, part.input_tokens, part.cost_nano_usd) == ("estimated", 6, 6000)
    if not is_stream:
        assert reply.headers["x-headrace-response-cost"] == "0.000176"


async def test_the_first_backend_wins_where_it_speaks_before_the_second(
    near: RunningServer,
) -> None:
    asked = asyncio.Event()

    async def speak_late(exchange: Exchange) -> None:
        await asked.wait()
        await answer(exchange)

    async def never(exchange: Exchange) -> None:
        asked.set()
        await stall(exchange)

    async with scripted(speak_late) as slow, scripted(never) as other:
        settings = hedged(slow.url, near)
        settings["upstreams"]["near"] = far(other.url)
        with route(settings) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
            main, part = await settled(rows, 2)
    assert reply.json()["choices"][0]["message"]["content"] == "word word "
    assert reply.headers["x-headrace-selected-backend"] == "slow/tiny"
    assert (main.backend, part.backend, part.route_reason) == ("slow/tiny", "near/tiny", "hedge")


async def say_and_break(exchange: Exchange) -> None:
    """A word, and the connection is gone."""
    await exchange.head()
    await exchange.event(text("lost "))


async def test_one_that_was_outrun_is_asked_again_where_the_winner_breaks() -> None:
    """Of an answer that nobody has seen yet nothing is lost: the other backend is well."""
    was_asked = asyncio.Event()

    async def speak_late_and_break(exchange: Exchange) -> None:
        await was_asked.wait()
        await say_and_break(exchange)

    async def stay_silent(exchange: Exchange) -> None:
        was_asked.set()
        await stall(exchange)

    for first, second in (
        ((speak_late_and_break,), (stay_silent, answer)),
        ((stall, answer), (say_and_break,)),
    ):
        was_asked.clear()
        async with scripted(*first) as slow, scripted(*second) as other:
            settings = {
                "upstreams": {"slow": far(slow.url), "near": far(other.url)},
                "tiers": {
                    "cheap": {
                        "backends": [
                            {"model": "tiny", "upstream": "slow", "price": PRICE_A},
                            {"model": "tiny", "upstream": "near", "price": PRICE_B},
                        ],
                        "hedge": {"after_s": 0.01, "max_share": 1.0},
                    }
                },
            }
            with route(settings) as (server, rows):
                async with client_of(server) as client:
                    reply = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
                assert reply.status_code == 200, reply.text
                # The winner that broke, the loser, and the answer.
                await settled(rows, 3)
        assert reply.json()["choices"][0]["message"]["content"] == "word word "
        assert reply.headers["x-headrace-attempts"].endswith("answered")
        assert len(slow.seen) + len(other.seen) == 3


async def test_calls_that_act_are_not_hedged(near: RunningServer) -> None:
    asked = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await answer(exchange, gap_s=0.05)
        asked.set()

    async with scripted(slowly) as slow:
        with route(hedged(slow.url, near)) as (server, rows):
            async with client_of(server) as client:
                tools = [{"type": "function", "function": {"name": "f"}}]
                body = chat(max_tokens=1, tools=tools)
                reply = await client.post("/v1/chat/completions", json=body)
            (row,) = await settled(rows, 1)
    assert reply.headers["x-headrace-selected-backend"] == "slow/tiny"
    assert reply.headers["x-headrace-selected-reason"] == row.route_reason == "default"


async def test_a_client_that_leaves_ends_both(near: RunningServer) -> None:
    async with scripted(stall) as slow, scripted(stall_after(1)) as other:
        settings = hedged(slow.url, near)
        settings["upstreams"]["near"] = far(other.url)
        with route(settings) as (server, rows):
            async with client_of(server) as client:
                body = chat(stream=True)
                async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                    async for line in reply.aiter_lines():
                        if '"word "' in line:
                            break
            main, part = await settled(rows, 2)
    assert (main.backend, main.error) == ("near/tiny", "client_disconnected")
    assert (part.backend, part.error) == ("slow/tiny", None)


def checked(near: RunningServer, **check: Any) -> dict[str, Any]:
    return {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": tiers(
            cheap=[{"model": "tiny", "price": PRICE_A}],
            premium=[{"model": "tiny", "upstream": "near", "price": PRICE_B}],
        ),
        "routing": {
            "default": "careful",
            "cascades": {
                "careful": {"tiers": ["cheap", "premium"], "self_check": {"max_tokens": 1, **check}}
            },
        },
    }


def judged(reply: str) -> FakeBackend:
    """A backend that answers, and says this when it is asked about an answer."""
    backend = FakeBackend(pieces=("cheap",))

    def reword(delta: CompletionDelta, step: int) -> CompletionDelta:
        messages = backend.requests[-1].messages or ()
        is_check = messages[-1].content is not None and messages[-1].content.startswith("Check")
        said = reply if is_check else delta.text
        return CompletionDelta(delta.index, said, finish_reason=delta.finish_reason)

    backend.reworded = reword
    return backend


async def test_an_answer_that_its_model_says_is_right_will_do(near: RunningServer) -> None:
    backend = judged("Yes.")
    with route(checked(near), backend) as (server, rows):
        async with client_of(server) as client:
            reply = await client.post("/v1/chat/completions", json=chat())
        main, part = await settled(rows, 2)
    assert reply.json()["choices"][0]["message"]["content"] == "cheap"
    assert reply.headers["x-headrace-selected-reason"] == "default, cascade careful"
    assert reply.headers["x-headrace-attempts"] == "cheap/tiny checked, cheap/tiny answered"
    question = backend.requests[1]
    assert [message.role for message in question.messages or ()] == ["user", "assistant", "user"]
    assert question.sampling.structured_outputs is not None
    assert question.sampling.structured_outputs.choice == ("yes", "no")
    # Both are paid, the check in a row of its own.
    assert (main.input_tokens, main.output_tokens, main.is_part) == (7, 1, None)
    assert (part.route_reason, part.is_part, part.output_tokens) == ("self-check", 1, 1)
    assert part.input_tokens == len("\n".join(m.content or "" for m in question.messages or ()))
    total = sum(row.cost_nano_usd or 0 for row in rows)
    assert float(reply.headers["x-headrace-response-cost"]) == pytest.approx(total / 1e9)


@pytest.mark.parametrize(
    ("said", "why"),
    [("no", "self-check said no"), ("maybe", "self-check said neither yes nor no")],
)
async def test_one_that_it_does_not_say_is_right_is_escalated(
    near: RunningServer, said: str, why: str
) -> None:
    with route(checked(near), judged(said)) as (server, rows):
        async with client_of(server) as client:
            reply = await client.post("/v1/chat/completions", json=chat())
        await settled(rows, 3)
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER
    assert reply.headers["x-headrace-selected-reason"] == f"default, cascade careful: {why}"
    assert reply.headers["x-headrace-attempts"] == (
        "cheap/tiny escalated, cheap/tiny checked, premium/near/tiny answered"
    )
    assert sorted((row.tier, row.route_reason == "self-check") for row in rows) == [
        ("cheap", False),
        ("cheap", True),
        ("premium", False),
    ]


async def test_another_tier_can_be_asked_about_it_and_one_that_fails_says_nothing(
    near: RunningServer,
) -> None:
    async with scripted(events(text("yes", "stop"))) as judge:
        settings = checked(near, tier="judge")
        settings["upstreams"]["judge"] = far(judge.url)
        settings["tiers"] |= tiers(judge=[{"model": "tiny", "upstream": "judge"}])
        with route(settings, FakeBackend(pieces=("cheap",))) as (server, rows):
            async with client_of(server) as client:
                good = await client.post("/v1/chat/completions", json=chat())
            await settled(rows, 2)
    assert good.headers["x-headrace-attempts"] == "judge/judge/tiny checked, cheap/tiny answered"
    # A server elsewhere may not know how to be held to two words.
    assert "structured_outputs" not in judge.seen[0].body
    with route(settings, FakeBackend(pieces=("cheap",))) as (server, rows):
        async with client_of(server) as client:
            failed = await client.post("/v1/chat/completions", json=chat())
        await settled(rows, 2)
    reason = failed.headers["x-headrace-selected-reason"]
    assert reason == "default, cascade careful: self-check failed"
    assert failed.headers["x-headrace-selected-tier"] == "premium"


def test_budgets_hold_what_everyone_may_cost(near: RunningServer) -> None:
    def providers(settings: dict[str, Any], **fields: Any) -> list[str]:
        config = make_routing(settings)
        router, close = open_tiers(config, FakeBackend(), NoMetrics(), {})
        close()
        return [each.info.provider for each in router.payable(ask(model="auto", **fields))]

    assert providers(hedged(near.address, near)) == ["slow", "near"]
    # Whoever is outrun may be asked again for an answer that nobody has seen.
    assert providers(hedged(near.address, near), is_whole=True) == ["slow", "near"] * 2
    # The cheap tier answers, and may be asked about it.
    assert providers(checked(near)) == ["local", "near", "local"]
    # Nobody is asked about an answer to tokens.
    assert providers(checked(near), messages=None, prompt=(1, 2)) == ["local", "near"]
    # One that wants a length is one whose prompt can be asked for alone.
    least = SamplingParams(max_tokens=4, min_tokens=3)
    assert len(providers(hedged(near.address, near), is_whole=True, sampling=least)) == 4


async def test_tries_that_may_be_billed_cost_no_more_than_is_held() -> None:
    """Prompts of tokens: their number is known, and no byte is held beyond it."""
    async with scripted(hang_up, hang_up, answer_to_tokens) as flaky:
        settings = {
            "upstreams": {"flaky": far(flaky.url, max_retries=2)},
            "tiers": tiers(
                cheap=[{"model": "tiny", "upstream": "flaky", "price": PRICE_A}],
            ),
        }
        body = {"model": "auto", "prompt": list(range(50)), "max_tokens": 2}
        with route(settings) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/completions", json=body)
            (row,) = await settled(rows, 1)
    assert reply.status_code == 200, reply.text
    assert row.cost_nano_usd == 3 * 50 * 1000 + 2 * 2000
    config = make_routing(settings)
    router, close = open_tiers(config, None, NoMetrics(), {})
    asked = ask(
        model="auto",
        messages=None,
        prompt=tuple(range(50)),
        sampling=SamplingParams(max_tokens=2),
    )
    held = await held_for(router, config, asked)
    close()
    assert row.cost_nano_usd <= held


async def answer_to_tokens(exchange: Exchange) -> None:
    """Two tokens after a prompt of 50."""
    await exchange.head()
    await exchange.event({"choices": [{"index": 0, "text": "a b", "finish_reason": "length"}]})
    usage = {"prompt_tokens": 50, "completion_tokens": 2}
    await exchange.event({"choices": [], "usage": usage})
    await exchange.event(b"[DONE]")
    await exchange.chunk(b"")


async def held_for(router: Router, config: RoutingConfig, asked: GenerateRequest) -> int:
    """What a budget holds of a request."""
    prices, held = PriceBook([tier_prices(config)]), 0
    for each in router.payable(asked):
        price = prices.find(each.info.provider, each.info.name, date(2026, 11, 22))
        named = replace(each.request, model=each.info.name)
        held += await most_it_costs(router, named, price, each.info) or 0
    return held


async def test_a_check_of_a_short_answer_costs_no_more_than_is_held(near: RunningServer) -> None:
    """The question is longer than the prompt and the answer together."""
    settings = checked(near)
    with route(settings, judged("Yes.")) as (server, rows):
        async with client_of(server) as client:
            await client.post("/v1/chat/completions", json=chat(max_tokens=1))
        await settled(rows, 2)
    config = make_routing(settings)
    router, close = open_tiers(config, judged("Yes."), NoMetrics(), {})
    asked = ask(model="auto", sampling=SamplingParams(max_tokens=1))
    held = await held_for(router, config, asked)
    close()
    assert sum(row.cost_nano_usd or 0 for row in rows) <= held


def test_two_prices_of_one_model_are_an_error_that_names_both() -> None:
    def prices_of(provider: str, other: dict[str, Any]) -> list[str]:
        first = {"model": "m", "upstream": "a", "price": PRICE_A}
        second = {"model": "m", "upstream": "b", "price": other}
        config = make_routing(
            {
                "upstreams": {
                    "a": far("http://a", provider="x"),
                    "b": far("http://b", provider=provider),
                },
                "tiers": tiers(cheap=[first], premium=[second]),
            }
        )
        return [price.provider for price in tier_prices(config)]

    assert prices_of("x", PRICE_A) == ["x", "x"]
    assert prices_of("y", PRICE_B) == ["x", "y"]
    with pytest.raises(ConfigError, match=r"tiers\.premium, b/m\.price.*x/m has in another tier"):
        prices_of("x", PRICE_B)


def compared(near: RunningServer, folder: Path, **shadow: Any) -> dict[str, Any]:
    return {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": tiers(
            cheap=[{"model": "tiny", "price": PRICE_A}],
            premium=[{"model": "tiny", "upstream": "near", "price": PRICE_B}],
        ),
        "routing": {
            "tasks": {"write": "cheap"},
            "shadow": {"use": "premium", "share": 1.0, "folder": str(folder), **shadow},
        },
    }


def written(folder: Path) -> list[dict[str, Any]]:
    try:
        return [record for _, record in read_records([folder])]
    except ConfigError:
        return []  # no file yet


async def records(folder: Path, count: int) -> Sequence[dict[str, Any]]:
    """They are written a moment after the answer."""
    async with asyncio.timeout(60):
        while True:
            found = written(folder) if folder.is_dir() else []
            if len(found) >= count:
                return found
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_shadow_is_recorded_and_paid_by_itself(
    near: RunningServer, tmp_path: Path, is_stream: bool
) -> None:
    backend = FakeBackend(pieces=("Hello", " there"))
    with route(compared(near, tmp_path), backend) as (server, rows):
        async with client_of(server) as client:
            body = chat(stream=is_stream, model="auto/write")
            reply = await client.post("/v1/chat/completions", json=body)
        (record,) = await records(tmp_path, 1)
        await settled(rows, 2)
    said = texts(reply.text) if is_stream else reply.json()["choices"][0]["message"]["content"]
    assert said == "Hello there"
    assert reply.headers["x-headrace-selected-backend"] == "tiny"
    own = next(row for row in rows if row.operation != "shadow")
    other = next(row for row in rows if row.operation == "shadow")
    assert own.cost_nano_usd == 7 * 1000 + 2 * 2000
    if not is_stream:
        assert reply.headers["x-headrace-response-cost"] == "0.000011"
    assert (other.tenant, other.tier, other.task) == ("shadow", "premium", "write")
    assert other.cost_nano_usd == record["other_cost_nano_usd"] == 170_000
    # Two words and three, one the same.
    assert record["agreement"] == pytest.approx(0.5)
    assert (record["task"], record["tier"], record["other_tier"]) == ("write", "cheap", "premium")
    assert (record["num_chars"], record["other_num_chars"]) == (11, len(ANSWER))
    assert "text" not in record
    assert "one two" not in json.dumps(record)


async def test_a_shadow_that_fails_harms_no_answer(near: RunningServer, tmp_path: Path) -> None:
    async with scripted(stall) as slow:
        settings = compared(near, tmp_path)
        settings["upstreams"]["near"] = far(slow.url, first_byte_timeout_s=0.05)
        with route(settings, FakeBackend()) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat())
            (record,) = await records(tmp_path, 1)
            await settled(rows, 2)
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER
    assert (record["error"], record["agreement"]) == ("UpstreamTimeout", None)


async def test_a_learned_destination_says_what_it_saw(near: RunningServer, tmp_path: Path) -> None:
    def facts(prompt: str) -> dict[str, float]:
        return feature_values(read_facts(ask(prompt)))

    rows_ = [
        LabelledRow(facts("why " * (number % 2 * 50 + number)), number % 2 == 1)
        for number in range(40)
    ]
    path = tmp_path / "model.json"
    path.write_text(fit_route_model(rows_, 0.5).to_json())
    settings = compared(near, tmp_path)
    learned = {"smart": {"model": str(path), "cheap": "cheap", "premium": "premium"}}
    settings["routing"] = {"default": "smart", "learned": learned}
    with route(settings, FakeBackend()) as (server, rows):
        async with client_of(server) as client:
            easy = await client.post("/v1/chat/completions", json=chat("why why"))
            hard = await client.post("/v1/chat/completions", json=chat("why " * 80))
            listed = (await client.get("/v1/models")).json()["data"]
        await settled(rows, 2)
    assert easy.headers["x-headrace-selected-tier"] == "cheap"
    assert hard.headers["x-headrace-selected-tier"] == "premium"
    assert " above " in hard.headers["x-headrace-selected-reason"]
    assert {row.route_reason for row in rows} == {
        reply.headers["x-headrace-selected-reason"] for reply in (easy, hard)
    }
    assert "auto:smart" in [entry["id"] for entry in listed]


@pytest.mark.parametrize(
    ("routing", "field"),
    [
        ({"shadow": {"use": "none"}}, "routing.shadow.use"),
        ({"shadow": {"use": "cheap", "of": ["cheap"]}}, "routing.shadow.of"),
        ({"shadow": {"use": "cheap", "metric": "bleu"}}, "routing.shadow.metric"),
        ({"shadow": {}}, "routing.shadow"),
        (
            {"learned": {"a": {"model": "m", "cheap": "cheap", "premium": "cheap"}}},
            "routing.learned.a.premium",
        ),
        (
            {"learned": {"a": {"model": "m", "cheap": "cheap", "premium": "none"}}},
            "routing.learned.a.premium",
        ),
        (
            {"cascades": {"c": {"tiers": ["cheap", "big"], "self_check": {"tier": "none"}}}},
            "routing.cascades.c.self_check.tier",
        ),
        ({"cache": {"semantic": {}}}, "routing.cache.semantic"),
        ({"cache": {"semantic": {"min_similarity": 0.1}}}, "routing.cache.semantic.min_similarity"),
    ],
)
def test_settings_are_checked_by_name(routing: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_routing({"tiers": tiers(cheap=["tiny"], big=["tiny"]), "routing": routing})
    assert caught.value.field == field


def test_a_hedge_needs_somebody_else() -> None:
    tier = {"backends": ["tiny"], "hedge": {"after_s": 1}}
    with pytest.raises(ConfigError, match="at least two backends"):
        make_routing({"tiers": {"cheap": tier}})
