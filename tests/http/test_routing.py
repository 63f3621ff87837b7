"""A router in front of two headrace servers and one that fails in every way, over real sockets:
nothing is lost that could be served, nothing is billed twice, and every answer says its tier."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from fakes.completion_server import CompletionServer
from fakes.fake_backend import FakeBackend
from fakes.routed import chat, client_of, far, route, settled, texts, tiers
from fakes.served_app import RunningServer, run_server
from fakes.upstreams import (
    cut_after,
    events,
    hang_up,
    scripted,
    stall,
    stall_after,
    status,
    well,
)
from headrace.core.backend import Health
from headrace.core.errors import CapacityError, TooManyAnswers
from headrace.core.request import GenerateRequest

PRICE_A = {"input_per_1m": 1, "output_per_1m": 2}
PRICE_B = {"input_per_1m": 10, "output_per_1m": 20}
ANSWER = "Hello, wörld 🌊!"


@pytest.fixture(scope="module")
def near() -> Iterator[RunningServer]:
    """A headrace server."""
    with run_server() as server:
        yield server


@contextmanager
def front(flaky: CompletionServer, near: RunningServer, **settings: Any) -> Iterator[Any]:
    """The flaky server first, the sound one when it fails."""
    given = {
        "upstreams": {"flaky": far(flaky.url, **settings), "near": far(f"{near.address}/v1")},
        "tiers": tiers(
            cheap=[
                {"model": "tiny", "upstream": "flaky", "price": PRICE_A},
                {"model": "tiny", "upstream": "near", "price": PRICE_B},
            ]
        ),
    }
    with route(given) as (server, rows):
        yield server, rows


FAILURES = {
    "500": status("500 Internal Server Error"),
    "429": status("429 Too Many Requests", retry_after="7"),
    "wrong key": status("401 Unauthorized"),
    "no such model": status("404 Not Found"),
    "hangs up": hang_up,
    "cut": cut_after(0),
    "no JSON": events(b"{nonsense"),
    "no stream": status("200 OK", {"choices": []}),
    "error event": events({"error": {"message": "busy", "type": "server_error"}}),
    "says nothing": stall,
    "stands still": stall_after(0),
}


# It said that it does nothing; of the others nobody knows how far they got.
REFUSALS = ("500", "429", "wrong key", "no such model")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
async def test_what_fails_is_served_by_another(
    near: RunningServer, failure: str, is_stream: bool
) -> None:
    impatient = {"first_byte_timeout_s": 0.1, "idle_timeout_s": 0.1}
    settings = impatient if failure.startswith("s") else {}
    async with scripted(FAILURES[failure]) as flaky:
        with front(flaky, near, **settings) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat(stream=is_stream))
            row, *parts = await settled(rows, 1 if failure in REFUSALS else 2)
    assert reply.status_code == 200
    said = texts(reply.text) if is_stream else reply.json()["choices"][0]["message"]["content"]
    assert said == ANSWER
    assert reply.headers["x-headrace-selected-tier"] == "cheap"
    assert reply.headers["x-headrace-selected-reason"] == "default"
    assert reply.headers["x-headrace-selected-backend"] == "near/tiny"
    assert reply.headers["x-headrace-attempted-fallbacks"] == "1"
    assert len(flaky.seen) == 1
    # 7 bytes in, 5 tokens out, at the prices of the one that answered.
    assert (row.backend, row.provider, row.usage_source) == ("near/tiny", "near", "reported")
    assert (row.input_tokens, row.output_tokens) == (7, 5)
    assert row.cost_nano_usd == 7 * 10_000 + 5 * 20_000
    assert (row.attempt, row.is_part, row.error) == (1 + len(parts), None, None)
    # What may be billed is never 0: the prompt by its length, 7 // 3 + 4 tokens.
    for part in parts:
        assert (part.backend, part.is_part, part.usage_source) == ("flaky/tiny", 1, "estimated")
        assert (part.input_tokens, part.output_tokens, part.cost_nano_usd) == (6, 0, 6000)


async def test_a_cut_answer_that_nobody_saw_begins_again_and_both_are_billed(
    near: RunningServer,
) -> None:
    async with scripted(cut_after(2)) as flaky:
        with front(flaky, near) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat())
            main, part = await settled(rows, 2)
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER
    # What was generated before the cut is owed, as an estimate: 7 // 3 + 4 tokens in.
    assert (part.backend, part.is_part, part.attempt) == ("flaky/tiny", 1, 1)
    assert (part.input_tokens, part.output_tokens, part.usage_source) == (6, 2, "estimated")
    assert part.cost_nano_usd == 6 * 1000 + 2 * 2000
    assert (main.backend, main.attempt, main.cost_nano_usd) == ("near/tiny", 2, 170_000)
    assert reply.headers["x-headrace-response-cost"] == "0.00018"
    assert part.request_id == main.request_id


async def test_a_cut_stream_ends_with_an_error_and_what_was_said_is_billed(
    near: RunningServer,
) -> None:
    async with scripted(cut_after(2)) as flaky:
        with front(flaky, near) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat(stream=True))
            (row,) = await settled(rows, 1)
    assert texts(reply.text) == "word word "
    assert '"error"' in reply.text
    assert "[DONE]" not in reply.text
    assert (row.backend, row.error, row.output_tokens) == ("flaky/tiny", "StreamBroken", 2)


async def test_a_try_that_may_be_billed_is_in_the_row_of_the_one_that_answers(
    near: RunningServer,
) -> None:
    async with scripted(hang_up, well) as flaky:
        with front(flaky, near, max_retries=1) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
            (row,) = await settled(rows, 1)
    assert len(flaky.seen) == 2
    assert reply.headers["x-headrace-attempts"] == (
        "cheap/flaky/tiny failed, cheap/flaky/tiny answered"
    )
    assert reply.headers["x-headrace-attempted-fallbacks"] == "0"
    # 12 and 2 tokens of the answer, 6 of the try.
    assert (row.input_tokens, row.output_tokens, row.usage_source) == (18, 2, "estimated")
    assert row.cost_nano_usd == 18 * 1000 + 2 * 2000


async def test_one_that_cannot_answer_now_comes_after_the_fallback(near: RunningServer) -> None:
    away = FakeBackend(state=Health("stalled", is_recovering=True))
    given = {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": {
            "cheap": {"backends": ["tiny"], "fallback": "premium"},
            "premium": {"backends": [{"model": "tiny", "upstream": "near"}]},
        },
    }
    with route(given, away) as (server, _):
        async with client_of(server) as client:
            reply = await client.post("/v1/chat/completions", json=chat())
    assert reply.headers["x-headrace-selected-tier"] == "premium"
    assert not away.requests


async def test_a_caller_without_patience_rests_no_backend(near: RunningServer) -> None:
    async def refuse(request: GenerateRequest) -> None:
        if request.patience_s is not None:
            raise CapacityError("too long for you", 60.0, is_impatience=True)

    busy = FakeBackend(admission=refuse)
    given = {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": tiers(cheap=["tiny", {"model": "tiny", "upstream": "near"}]),
    }
    with route(given, busy) as (server, rows):
        async with client_of(server) as client:
            hasty = await client.post(
                "/v1/chat/completions", json=chat(), headers={"x-stainless-timeout": "0.5"}
            )
            patient = await client.post("/v1/chat/completions", json=chat())
        await settled(rows, 2)
    assert hasty.headers["x-headrace-selected-backend"] == "near/tiny"
    assert patient.headers["x-headrace-selected-backend"] == "tiny"


async def test_more_answers_than_one_backend_holds_are_asked_elsewhere(near: RunningServer) -> None:
    async def refuse(request: GenerateRequest) -> None:
        if request.sampling.n > 2:
            raise TooManyAnswers(request.sampling.n, 2, request.sampling.n)

    given = {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": tiers(cheap=["tiny", {"model": "tiny", "upstream": "near"}]),
    }
    with route(given, FakeBackend(admission=refuse)) as (server, rows):
        async with client_of(server) as client:
            large = await client.post("/v1/chat/completions", json=chat(n=3))
            small = await client.post("/v1/chat/completions", json=chat())
        await settled(rows, 2)
    assert len(large.json()["choices"]) == 3
    assert large.headers["x-headrace-selected-backend"] == "near/tiny"
    # Nothing is wrong with the one that could not take it.
    assert small.headers["x-headrace-selected-backend"] == "tiny"


async def test_the_callers_own_fault_is_not_asked_elsewhere(near: RunningServer) -> None:
    body = {"error": {"message": "top_p is 3", "param": "top_p", "code": "invalid_value"}}
    async with scripted(status("400 Bad Request", body)) as flaky:
        with front(flaky, near) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat())
            (row,) = await settled(rows, 1)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "top_p"
    assert row.cost_nano_usd == 0
    assert not near.backend.num_running


async def test_when_all_fail_the_caller_is_told_when_to_come_back() -> None:
    async with scripted(status("429 Too Many Requests", retry_after="7")) as flaky:
        given = {
            "upstreams": {"flaky": far(flaky.url)},
            "tiers": tiers(cheap=[{"model": "tiny", "upstream": "flaky"}]),
        }
        with route(given) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat())
            (row,) = await settled(rows, 1)
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-headrace-selected-backend"] == "flaky/tiny"
    assert (row.tier, row.usage_source, row.cost_nano_usd) == ("cheap", "none", 0)


async def test_a_resting_backend_is_asked_last(near: RunningServer) -> None:
    async with scripted(status("429 Too Many Requests", retry_after="30"), well) as flaky:
        with front(flaky, near) as (server, rows):
            async with client_of(server) as client:
                for _ in range(3):
                    reply = await client.post("/v1/chat/completions", json=chat())
                    assert reply.status_code == 200
            await settled(rows, 3)
    assert len(flaky.seen) == 1


async def test_two_servers_and_a_flaky_one_lose_nothing_under_load(near: RunningServer) -> None:
    scripts = (hang_up, well, status("500 Oops"), cut_after(1), well, events(b"x"), well)
    with run_server() as other:
        async with scripted(*scripts) as flaky:
            given = {
                "upstreams": {
                    "flaky": far(flaky.url, breaker_failures=100),
                    "near": far(f"{near.address}/v1"),
                    "other": far(f"{other.address}/v1"),
                },
                "tiers": {
                    "cheap": {
                        "order": "least-busy",
                        "backends": [
                            {"model": "tiny", "upstream": name, "price": PRICE_A}
                            for name in ("flaky", "near", "other")
                        ],
                    }
                },
            }
            with route(given) as (server, rows):
                async with client_of(server) as client:
                    body = chat(max_tokens=3)
                    asked = [client.post("/v1/chat/completions", json=body) for _ in range(40)]
                    replies = await asyncio.gather(*asked)
                calls = [row for row in rows if not row.is_part]
                while len(calls) < 40:
                    await asyncio.sleep(0.005)
                    calls = [row for row in rows if not row.is_part]
    assert [reply.status_code for reply in replies] == [200] * 40
    assert all(reply.json()["choices"][0]["finish_reason"] == "length" for reply in replies)
    # Each call has one row of its own, and what broken answers owe has rows beside it.
    assert len({row.request_id for row in calls}) == 40
    assert {row.backend for row in calls} >= {"near/tiny", "other/tiny"}
    assert {row.backend for row in rows if row.is_part} <= {"flaky/tiny"}
    costs = {row.request_id: row.cost_nano_usd or 0 for row in calls}
    for row in rows:
        if row.is_part:
            costs[row.request_id] += row.cost_nano_usd or 0
    from_headers = sorted(reply.headers["x-headrace-response-cost"] for reply in replies)
    assert from_headers == sorted(f"{cost / 1e9:.9f}".rstrip("0") for cost in costs.values())


async def test_tasks_by_name_header_and_metadata(near: RunningServer) -> None:
    local = FakeBackend()
    given = {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": tiers(cheap=["tiny"], premium=[{"model": "tiny", "upstream": "near"}]),
        "routing": {"tasks": {"write": "premium"}, "rules": []},
    }
    with route(given, local) as (server, rows):
        async with client_of(server) as client:
            listed = (await client.get("/v1/models")).json()["data"]
            by_name = await client.post("/v1/chat/completions", json=chat(model="auto/write"))
            by_header = await client.post(
                "/v1/chat/completions", json=chat(), headers={"x-headrace-task": "write"}
            )
            by_metadata = await client.post(
                "/v1/chat/completions", json=chat(metadata={"task": "write"})
            )
            by_default = await client.post("/v1/chat/completions", json=chat())
            by_model = await client.post("/v1/chat/completions", json=chat(model="tiny"))
            unknown = await client.post(
                "/v1/chat/completions", json=chat(), headers={"x-headrace-task": "other"}
            )
            message = await client.post("/v1/messages", json=chat(model="auto/write", max_tokens=9))
            early = await client.post(
                "/v1/chat/completions", json=chat(n="two"), headers={"x-headrace-task": "made-up"}
            )
        await settled(rows, 8)
    names = [entry["id"] for entry in listed]
    assert names == ["auto", "auto/write", "auto:cheap", "auto:premium", "tiny"]
    for reply in (by_name, by_header, by_metadata, message):
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-headrace-selected-tier"] == "premium"
        assert reply.headers["x-headrace-selected-reason"] == "task"
        assert reply.headers["x-headrace-selected-task"] == "write"
    assert message.json()["content"][0]["text"] == ANSWER
    assert by_default.headers["x-headrace-selected-backend"] == "tiny"
    assert "x-headrace-selected-tier" not in by_model.headers
    assert unknown.status_code == 400
    assert unknown.json()["error"]["param"] == "task"
    assert [row.task for row in rows[:3]] == ["write"] * 3
    assert early.status_code == 400 and early.json()["error"]["param"] == "n"
    # What was refused because nobody declared it, or before it was routed, counts under no task.
    assert [(row.task, row.http_status) for row in rows if row.error] == [(None, 400)] * 2
    assert [(row.tier, row.route_reason) for row in rows[:4]] == [
        *[("premium", "task")] * 3,
        ("cheap", "default"),
    ]


async def test_a_tier_of_another_kind_is_the_fallback(near: RunningServer) -> None:
    async with scripted(hang_up) as flaky:
        given = {
            "upstreams": {"flaky": far(flaky.url), "near": far(f"{near.address}/v1")},
            "tiers": {
                "cheap": {
                    "backends": [{"model": "tiny", "upstream": "flaky"}],
                    "fallback": "premium",
                },
                "premium": {"backends": [{"model": "tiny", "upstream": "near"}]},
            },
        }
        with route(given) as (server, rows):
            async with client_of(server) as client:
                reply = await client.post("/v1/chat/completions", json=chat(logprobs=True))
            row, part = await settled(rows, 2)
    assert reply.headers["x-headrace-selected-tier"] == "premium"
    (first, *_) = reply.json()["choices"][0]["logprobs"]["content"]
    assert bytes(first["bytes"]) == b"Hello"
    assert (row.tier, part.tier, part.usage_source) == ("premium", "cheap", "estimated")


async def test_a_destination_is_as_well_as_its_best_backend(near: RunningServer) -> None:
    async with scripted(hang_up) as flaky:
        given = {
            "upstreams": {
                "flaky": far(flaky.url, breaker_failures=1),
                "near": far(f"{near.address}/v1"),
            },
            "tiers": {
                "cheap": {
                    "backends": [{"model": "tiny", "upstream": "flaky"}],
                    "fallback": "premium",
                },
                "premium": {"backends": [{"model": "tiny", "upstream": "near"}]},
                "alone": {"backends": [{"model": "tiny", "upstream": "flaky"}]},
            },
        }
        with route(given) as (server, _):
            async with client_of(server) as client:
                names = ["auto", "auto:cheap", "auto:premium", "auto:alone"]
                before = {n: await client.get("/health", params={"model": n}) for n in names}
                reply = await client.post("/v1/chat/completions", json=chat())
                after = {n: await client.get("/health", params={"model": n}) for n in names}
                cards = (await client.get("/v1/models")).json()["data"]
                health = await client.get("/health")
    assert {answer.status_code for answer in before.values()} == {200}
    assert reply.headers["x-headrace-selected-tier"] == "premium"
    assert [after[name].status_code for name in names] == [200, 200, 200, 503]
    assert "The model auto:alone is stalled: flaky failed" in after["auto:alone"].text
    assert {card["id"]: card["status"] for card in cards} == {
        **dict.fromkeys(names, "ready"),
        "auto:alone": "stalled",
    }
    assert health.status_code == 200


async def test_a_client_that_leaves_stops_the_work_and_pays_for_it(near: RunningServer) -> None:
    async with scripted(stall_after(2)) as flaky:
        with front(flaky, near) as (server, rows):
            async with client_of(server) as client:
                body = chat(stream=True)
                async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                    async for line in reply.aiter_lines():
                        if '"word "' in line:
                            break
            (row,) = await settled(rows, 1)
    assert (row.backend, row.error) == ("flaky/tiny", "client_disconnected")
    assert row.usage_source == "estimated"
    assert row.output_tokens in (1, 2)


async def test_no_local_model_and_no_vectors() -> None:
    async with scripted(well) as flaky:
        given = {
            "upstreams": {"flaky": far(flaky.url)},
            "tiers": tiers(cheap=[{"model": "tiny", "upstream": "flaky"}]),
        }
        with route(given) as (server, rows):
            async with client_of(server) as client:
                health = await client.get("/health")
                missing = await client.post("/v1/chat/completions", json=chat(model="tiny"))
                counted = await client.post("/tokenize", json={"model": "auto", "prompt": "x"})
                ask = {"model": "auto", "input": "x"}
                no_vectors = await client.post("/v1/embeddings", json=ask)
                no_task = await client.post(
                    "/v1/embeddings", json=ask, headers={"x-headrace-task": "made-up"}
                )
                reply = await client.post(
                    "/v1/chat/completions", json=chat(max_tokens=2, stream=False)
                )
                debug = await client.get("/debug/requests")
            await settled(rows, 5)
    assert health.status_code == 200
    assert missing.status_code == 404
    assert counted.status_code == 400
    assert (no_vectors.status_code, no_vectors.json()["error"]["param"]) == (400, "model")
    assert (no_task.status_code, no_task.json()["error"]["param"]) == (400, "task")
    assert {row.task for row in rows} == {None}
    assert reply.json()["usage"]["completion_tokens"] == 2
    assert debug.json()["data"] == []


@contextmanager
def cascade(cheap: FakeBackend, near: RunningServer, **checks: Any) -> Iterator[Any]:
    """A model here first, then a server."""
    given = {
        "upstreams": {"near": far(f"{near.address}/v1")},
        "tiers": tiers(
            cheap=[{"model": "tiny", "price": PRICE_A}],
            premium=[{"model": "tiny", "upstream": "near", "price": PRICE_B}],
        ),
        "routing": {
            "default": "careful",
            "cascades": {"careful": {"tiers": ["cheap", "premium"], **checks}},
        },
    }
    with route(given, cheap) as (server, rows):
        yield server, rows


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_cheap_answer_that_will_do_is_the_answer(
    near: RunningServer, is_stream: bool
) -> None:
    # The tokens of these servers are at -0.5 each.
    cheap = FakeBackend(pieces=("cheap", " one"))
    with cascade(cheap, near, min_mean_logprob=-0.6) as (server, rows):
        async with client_of(server) as client:
            reply = await client.post("/v1/chat/completions", json=chat(stream=is_stream))
        (row,) = await settled(rows, 1)
    said = texts(reply.text) if is_stream else reply.json()["choices"][0]["message"]["content"]
    assert said == "cheap one"
    assert "logprobs" not in reply.text or '"logprobs":null' in reply.text
    assert reply.headers["x-headrace-selected-tier"] == "cheap"
    assert reply.headers["x-headrace-selected-reason"] == "default, cascade careful"
    assert reply.headers["x-headrace-selected-confidence"] == "0.607"
    assert (row.tier, row.cost_nano_usd, row.attempt) == ("cheap", 7 * 1000 + 2 * 2000, 1)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_one_that_will_not_do_is_escalated_and_both_are_billed_and_shown(
    near: RunningServer, is_stream: bool
) -> None:
    cheap = FakeBackend(pieces=("cheap", " one"))
    with cascade(cheap, near, min_mean_logprob=-0.4) as (server, rows):
        async with client_of(server) as client:
            reply = await client.post("/v1/chat/completions", json=chat(stream=is_stream))
        main, part = await settled(rows, 2)
    said = texts(reply.text) if is_stream else reply.json()["choices"][0]["message"]["content"]
    assert said == ANSWER
    assert reply.headers["x-headrace-selected-tier"] == "premium"
    reason = "default, cascade careful: mean logprob -0.50 below -0.4"
    assert reply.headers["x-headrace-selected-reason"] == reason
    shown = "cheap/tiny escalated, premium/near/tiny "
    assert reply.headers["x-headrace-attempts"].startswith(shown)
    assert (part.tier, part.is_part, part.cost_nano_usd) == ("cheap", 1, 11_000)
    assert (main.tier, main.is_part, main.cost_nano_usd) == ("premium", None, 170_000)
    assert main.route_reason == reason
    if not is_stream:
        assert reply.headers["x-headrace-response-cost"] == "0.000181"


async def test_a_cheap_tier_that_fails_is_escalated(near: RunningServer) -> None:
    async def fail(request: object) -> None:
        raise CapacityError("full")

    with cascade(FakeBackend(admission=fail), near) as (server, rows):
        async with client_of(server) as client:
            reply = await client.post("/v1/chat/completions", json=chat())
        await settled(rows, 1)
    assert reply.headers["x-headrace-selected-reason"] == "default, cascade careful: cheap failed"
    assert reply.headers["x-headrace-attempted-fallbacks"] == "1"


async def test_an_answer_is_given_again_to_its_tenant_for_nothing() -> None:
    given = {
        "tiers": tiers(cheap=[{"model": "tiny", "price": PRICE_A}]),
        "routing": {"cache": {"max_bytes": "1MiB"}},
    }
    backend = FakeBackend()
    with route(given, backend) as (server, rows):
        async with client_of(server) as client:

            async def post(headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
                body = chat(**fields)
                return await client.post("/v1/chat/completions", json=body, headers=headers or {})

            replies = [
                await post(),
                await post(),
                await post(stream=True),
                await post(seed=5),
                await post(cache={"no-cache": True}),
                await post({"cache-control": "no-store"}),
                await post({"cache-control": "max-age=0"}, cache={"s-maxage": 3600}),
                await post(tools=[{"type": "function", "function": {"name": "f"}}]),
                await post(cache={"namespace": "n"}),
            ]
            wrong = await post(cache={"ttl": "long"})
            unknown = await post(cache={"max": 1})
        await settled(rows, 11)
    status_of = [reply.headers["x-headrace-cache-status"] for reply in replies]
    assert not any("x-headrace-warnings" in reply.headers for reply in replies)
    assert status_of == [
        *("miss", "hit", "hit", "miss", "miss", "bypass", "hit", "bypass", "miss"),
    ]
    assert len(backend.requests) == 6
    first, second = replies[0].json(), replies[1].json()
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]
    assert first["usage"] == second["usage"]
    assert texts(replies[2].text) == ANSWER
    assert replies[1].headers["x-headrace-selected-reason"] == "cache"
    assert replies[1].headers["x-headrace-response-cost"] == "0.00"
    assert (rows[1].cost_nano_usd, rows[1].input_tokens, rows[1].route_reason) == (0, 0, "cache")
    assert wrong.status_code == unknown.status_code == 400
    assert wrong.json()["error"]["param"] == "cache.ttl"
    assert unknown.json()["error"]["param"] == "cache.max"


async def test_names_of_messages_are_read_where_every_backend_of_a_tier_can(
    near: RunningServer,
) -> None:
    openai = {"model": "tiny", "upstream": "near"}
    claude = {"model": "other", "upstream": "claude"}
    given = {
        "upstreams": {
            "near": far(f"{near.address}/v1"),
            "claude": far(f"{near.address}/v1", kind="anthropic"),
        },
        "tiers": tiers(one=[openai], both=[openai, claude]),
    }
    messages = [{"role": "user", "content": "hi", "name": "ann"}]
    found = []
    with route(given) as (server, _rows):
        async with client_of(server) as client:
            for name in ("auto:one", "auto:both"):
                body = {"model": name, "messages": messages}
                reply = await client.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200, reply.text
                found.append(reply.headers.get("x-headrace-warnings"))
    assert found == [None, "messages[0].name"]
    asked = [request.messages for request in near.backend.requests[-2:]]
    assert [messages[0].name for messages in asked if messages] == ["ann", "ann"]
