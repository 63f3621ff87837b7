"""Upstream in front of a server that fails in every way, over real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from fakes.completion_server import (
    CompletionServer,
    Exchange,
    Script,
    completion_server,
    dump,
    text,
)
from fakes.fake_clock import FakeClock
from fakes.served_app import run_server
from fakes.upstreams import (
    KEY,
    Waits,
    ask,
    collect,
    cut_after,
    events,
    hang_up,
    scripted,
    stall,
    stall_after,
    status,
    upstream_of,
    well,
    words,
)
from headrace.client.upstream import Upstream
from headrace.core.errors import (
    CapacityError,
    ConfigError,
    ModelNotFound,
    RequestError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamError,
    UpstreamTimeout,
)
from headrace.core.output import RequestOutput
from headrace.core.request import SamplingParams
from headrace.core.routing import Retried
from headrace.core.tracing import parse_traceparent
from headrace.core.upstreams import UpstreamConfig
from headrace.core.usage import Usage


@dataclass
class Probing:
    """A probe that waits for the gate."""

    upstream: Upstream
    server: CompletionServer
    clock: FakeClock
    gate: asyncio.Event
    probe: asyncio.Task[list[RequestOutput]]


async def test_an_answer_with_its_usage() -> None:
    async with scripted(well) as server, upstream_of(server) as upstream:
        outputs = await collect(upstream)
    assert words(outputs) == "word word word "
    assert [output.is_finished for output in outputs] == [False] * 3 + [True]
    assert outputs[-1].usage == Usage(12, output_tokens=3)
    assert outputs[-1].deltas[0].finish_reason == "length"
    # Nobody has counted yet: as many tokens as pieces.
    assert outputs[1].usage.is_estimated
    assert outputs[1].usage.output_tokens == 2
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert server.seen[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "failure",
    [
        status("500 Internal Server Error"),
        status("429 Too Many Requests"),
        status("503 Service Unavailable"),
        status("529 Overloaded"),
        hang_up,
        cut_after(0),
        events(b"{not json"),
        events([1, 2]),
        events({"choices": "none"}),
        events({"choices": [{"index": 9, "delta": {"content": "x"}}]}),
        events({"choices": [{"delta": {"content": "x"}, "finish_reason": 3}]}),
        events({"error": {"message": "busy", "type": "overloaded_error"}}),
        status("200 OK", {"choices": []}),
    ],
)
async def test_what_fails_before_the_answer_began_is_asked_again(failure: object) -> None:
    waits = Waits()
    async with scripted(failure, failure, well) as server, upstream_of(server, waits) as upstream:  # type: ignore[arg-type]
        assert words(await collect(upstream)) == "word word word "
        assert upstream.health().status == "ready"
    assert len(server.seen) == 3
    assert waits.waited_s == [0.25, 0.5]


async def test_no_more_tries_than_were_allowed() -> None:
    async with (
        scripted(status("500 Oops", {"error": {"message": f"bad key {KEY}"}})) as server,
        upstream_of(server, max_retries=1) as upstream,
    ):
        with pytest.raises(UpstreamError) as caught:
            await collect(upstream)
    assert len(server.seen) == 2
    assert caught.value.status == 500
    assert str(caught.value) == "The upstream far answered with status 500: bad key ***."


async def test_it_waits_as_long_as_it_is_told_or_not_at_all() -> None:
    waits = Waits()
    busy = status("429 Too Many Requests", retry_after="3")
    later = status("429 Too Many Requests", retry_after="60")
    async with scripted(busy, later) as server, upstream_of(server, waits) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await collect(upstream)
    assert len(waits.waited_s) == 1
    assert 3 <= waits.waited_s[0] <= 3.6
    assert caught.value.retry_after_s == 60
    # One that says it is busy is not broken.
    assert upstream.breaker.state == "closed"


@pytest.mark.parametrize("failure", [cut_after(2), events(text("a "), text("b "), b"broken")])
async def test_what_breaks_off_later_is_an_error_with_its_tokens(failure: object) -> None:
    async with scripted(failure) as server, upstream_of(server) as upstream:  # type: ignore[arg-type]
        heard = []
        with pytest.raises(StreamBroken) as caught:
            async for output in await upstream.generate(ask()):
                heard.append(output)
    assert len(heard) == 2
    assert caught.value.tokens_sent == 2
    assert len(server.seen) == 1


async def test_an_answer_that_is_complete_needs_no_more_events() -> None:
    whole = events(text("all "), text("", "stop"))
    async with scripted(whole) as server, upstream_of(server) as upstream:
        outputs = await collect(upstream)
    assert words(outputs) == "all "
    assert outputs[-1].is_finished
    assert outputs[-1].usage.is_estimated


async def test_answers_that_are_not_plain_are_read_too() -> None:
    async def early(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await well(exchange)

    async def until_it_hangs_up(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for value in (text("all "), text("of it", "stop")):
            await exchange.send(b"data: %b\n\n" % dump(value))

    async with scripted(early, until_it_hangs_up) as server, upstream_of(server) as upstream:
        assert words(await collect(upstream)) == "word word word "
        assert words(await collect(upstream)) == "all of it"


async def test_a_key_that_is_no_header_is_an_error_that_does_not_show_it() -> None:
    async with scripted(well) as server:
        config = UpstreamConfig(name="far", url=server.url, models=("tiny",), max_retries=0)
        upstream = Upstream(config, "secret\r\nHost: other")
        with pytest.raises(UpstreamError, match="has a line end or is not ASCII") as caught:
            await collect(upstream)
        upstream.close()
    assert "secret" not in str(caught.value)
    assert not server.seen


async def test_one_that_says_nothing_is_not_asked_twice() -> None:
    async with (
        scripted(stall) as server,
        upstream_of(server, first_byte_timeout_s=0.05) as upstream,
    ):
        with pytest.raises(UpstreamTimeout, match="no answer began within") as caught:
            await collect(upstream)
        assert caught.value.was_asked
    assert len(server.seen) == 1


async def test_a_stream_that_stands_still_is_left() -> None:
    async with (
        scripted(stall_after(1)) as server,
        upstream_of(server, idle_timeout_s=0.05) as upstream,
    ):
        with pytest.raises(UpstreamTimeout, match="stood still") as caught:
            await collect(upstream)
        assert caught.value.tokens_sent == 1


async def test_nobody_listens() -> None:
    async with completion_server() as server:
        pass
    waits = Waits()
    async with upstream_of(server, waits, breaker_failures=4) as upstream:
        with pytest.raises(UpstreamError, match="no connection") as caught:
            await collect(upstream)
        assert not caught.value.was_asked
        assert len(waits.waited_s) == 2
        with pytest.raises(UpstreamError, match="left alone for a while"):
            await collect(upstream)
        assert upstream.health().status == "stalled"
        assert upstream.health().is_recovering


async def test_a_server_that_always_cuts_is_left_alone() -> None:
    async with (
        scripted(cut_after(1)) as server,
        upstream_of(server, breaker_failures=3) as upstream,
    ):
        for _ in range(3):
            with pytest.raises(StreamBroken):
                await collect(upstream)
        with pytest.raises(UpstreamError, match="left alone"):
            await collect(upstream)
    assert len(server.seen) == 3


@asynccontextmanager
async def probing(*after: Script) -> AsyncIterator[Probing]:
    """An upstream that failed, while a request finds out whether it is back."""
    clock, gate = FakeClock(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await gate.wait()
        await after[0](exchange)

    async with scripted(hang_up, slow, *after[1:]) as server:
        config = UpstreamConfig(
            name="far", url=server.url, models=("tiny",), breaker_failures=1, max_retries=0
        )
        upstream = Upstream(config, clock=clock)
        with pytest.raises(UpstreamError):
            await collect(upstream)
        clock.advance(config.breaker_cooldown_s + 1)
        probe = asyncio.create_task(collect(upstream))
        async with asyncio.timeout(60):
            while len(server.seen) < 2:
                await asyncio.sleep(0)
        yield Probing(upstream, server, clock, gate, probe)
        gate.set()
        await asyncio.gather(probe, return_exceptions=True)
        upstream.close()


async def waiting(upstream: Upstream) -> asyncio.Task[list[RequestOutput]]:
    """A request that waits for a probe."""
    task = asyncio.create_task(collect(upstream))
    async with asyncio.timeout(60):
        while not upstream.breaker.num_waiting:
            await asyncio.sleep(0)
    return task


async def test_others_wait_for_what_a_probe_finds() -> None:
    async with probing(well, well) as now:
        assert now.upstream.health().status == "stalled"
        other = await waiting(now.upstream)
        now.gate.set()
        assert words(await other) == words(await now.probe) == "word word word "
    assert now.upstream.breaker.state == "closed"


async def test_what_waited_for_a_probe_that_fails_is_told_at_once() -> None:
    async with probing(hang_up, well) as now:
        other = await waiting(now.upstream)
        now.gate.set()
        with pytest.raises(UpstreamError, match="left alone"):
            await other
    assert len(now.server.seen) == 2


async def test_a_probe_that_shows_nothing_does_not_stay_the_only_one() -> None:
    async with probing(well, well) as now:
        now.clock.advance(now.upstream.config.breaker_cooldown_s + 1)
        assert now.upstream.health().status == "ready"
        assert words(await collect(now.upstream)) == "word word word "
        assert not now.probe.done()


async def test_nobody_waits_for_a_probe_longer_than_it_would() -> None:
    async with probing(well, well) as now:
        with pytest.raises(UpstreamError, match="left alone"):
            await collect(now.upstream, ask(patience_s=0.001))
        assert not now.probe.done()


async def test_tries_that_may_be_billed_are_counted() -> None:
    failures = (hang_up, status("500 Oops"), cut_after(0))
    async with scripted(*failures, well) as server, upstream_of(server, max_retries=3) as upstream:
        stream = await upstream.generate(ask())
        outputs = [output async for output in stream]
    assert isinstance(stream, Retried)
    assert stream.num_in_doubt == 2
    assert words(outputs) == "word word word "
    impatient = {"first_byte_timeout_s": 0.05}
    async with scripted(stall) as server, upstream_of(server, **impatient) as upstream:
        with pytest.raises(UpstreamTimeout) as caught:
            await collect(upstream)
    assert caught.value.num_in_doubt == 1


async def test_a_refusal_is_the_callers_and_is_not_repeated() -> None:
    body = {"error": {"message": "temperature is 9", "param": "temperature", "code": "invalid"}}
    async with scripted(status("400 Bad Request", body)) as server, upstream_of(server) as upstream:
        with pytest.raises(RequestError) as caught:
            await collect(upstream)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid")
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", ["401 Unauthorized", "403 Forbidden", "404 Not Found"])
async def test_what_the_operator_has_to_mend_is_not_the_callers(code: str) -> None:
    async with scripted(status(code)) as server, upstream_of(server) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await collect(upstream)
    assert not caught.value.retryable
    assert len(server.seen) == 1


async def test_leaving_stops_the_work_there() -> None:
    async with scripted(stall_after(2)) as server, upstream_of(server) as upstream:
        async with aclosing(await upstream.generate(ask())) as stream:
            await anext(stream)
        assert upstream._pool.num_lent == 0
        never_read = await upstream.generate(ask())
        assert upstream._pool.num_lent == 1
        await never_read.aclose()
        assert upstream._pool.num_lent == 0
        reader = asyncio.create_task(collect(upstream))
        while len(server.seen) < 3:
            await asyncio.sleep(0.001)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert upstream._pool.num_lent == 0
        assert upstream.breaker.can_admit


async def test_as_many_connections_as_may_be() -> None:
    async with (
        scripted(stall_after(1)) as server,
        upstream_of(server, max_connections=1) as upstream,
        aclosing(await upstream.generate(ask())),
    ):
        with pytest.raises(CapacityError, match="1 requests in progress"):
            await upstream.generate(ask())
        assert upstream.breaker.state == "closed"


async def test_connections_are_used_again() -> None:
    with run_server() as server:
        config = UpstreamConfig(name="near", url=f"{server.address}/v1", models=("tiny",))
        upstream = Upstream(config)
        for _ in range(3):
            outputs = await collect(upstream)
            assert len(upstream._pool._idle) == 1
        assert words(outputs) == "Hello, wörld"
        assert outputs[-1].usage.output_tokens == 3
        kept = upstream._pool._idle[0][0]
        kept.close()
        await asyncio.sleep(0)
        # One that the other side has closed is replaced, and nobody notices.
        assert words(await collect(upstream)) == "Hello, wörld"
        upstream.close()


async def test_what_a_server_says_unasked_is_no_answer() -> None:
    """Some say 408 before they close a connection that stood still."""
    is_idle = asyncio.Event()

    async def impatient(exchange: Exchange) -> None:
        await well(exchange)
        await is_idle.wait()
        await exchange.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    async with scripted(impatient, well) as server, upstream_of(server) as upstream:
        await collect(upstream)
        kept = upstream._pool._idle[0][0]
        assert kept.is_open
        is_idle.set()
        async with asyncio.timeout(60):
            while kept.is_open:  # until the 408 has come
                await asyncio.sleep(0.001)
        assert words(await collect(upstream)) == "word word word "


async def test_a_text_goes_to_completions() -> None:
    async with (
        scripted(
            events(
                {"choices": [{"index": 0, "text": "a", "finish_reason": None}]},
                {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]},
                {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
                b"[DONE]",
            )
        ) as server,
        upstream_of(server) as upstream,
    ):
        outputs = await collect(upstream, replace(ask(), messages=None, prompt="say it"))
    assert words(outputs) == "ab"
    assert server.seen[0].path == "/v1/completions"
    assert server.seen[0].body["prompt"] == "say it"


async def test_the_span_of_the_call_goes_along() -> None:
    trace = parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    async with scripted(well) as server, upstream_of(server) as upstream:
        await collect(upstream, ask(trace=trace))
    assert server.seen[0].headers["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")


async def test_what_it_cannot_be_asked() -> None:
    async with scripted(well) as server, upstream_of(server, refuses=("top_k",)) as upstream:
        with pytest.raises(ModelNotFound):
            await upstream.generate(ask(model="other"))
        with pytest.raises(UnsupportedParameter, match="top_k"):
            await upstream.generate(ask(sampling=SamplingParams(top_k=4)))
        with pytest.raises(UnsupportedParameter, match="pooling"):
            await upstream.generate(ask(pooling="last"))
    assert server.seen == []


async def test_the_key_is_in_no_error_and_no_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = status("401 Unauthorized", {"error": {"message": f"Incorrect API key: {KEY}"}})
    again = status("500 Oops", {"error": {"message": f"Authorization: Bearer {KEY}"}})
    async with scripted(again, again, echo) as server, upstream_of(server) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await collect(upstream)
        shown = f"{caught.value} {upstream!r} {upstream.config!r} {caplog.text}"
    assert KEY not in shown
    assert "Authorization: Bearer ***" in caplog.text
    # What is said of a key is for its owner alone.
    assert "API key" not in shown and "status 401" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://user:pw@x"}, "url"),
        ({"kind": "other"}, "kind"),
        ({"api_key": "sk-plain"}, "api_key"),
        ({"models": ("a", "a")}, "models"),
        ({"max_retries": -1}, "max_retries"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"max_connections": 1.5}, "max_connections"),
    ],
)
def test_settings_are_checked_by_name(settings: dict[str, object], field: str) -> None:
    given = {"name": "far", "url": "http://x", "models": ("a",)} | settings
    with pytest.raises(ConfigError) as caught:
        Upstream(UpstreamConfig(**given))  # type: ignore[arg-type]
    assert caught.value.field == f"upstreams.far.{field}"
    assert "sk-plain" not in str(caught.value)
    assert "pw" not in str(caught.value).replace("http", "")
