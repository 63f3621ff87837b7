"""A server's answers, good and bad, over real sockets: what is heard, and counted as what."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from fakes.completion_server import (
    OVERHEAD_TOKENS,
    Exchange,
    Script,
    answer,
    completion_server,
    dump,
    text,
)
from headrace.bench import http_exchange
from headrace.bench.http_target import HttpTarget, list_models
from headrace.bench.load import LoadRun
from headrace.bench.outcome import Outcome, RequestFailed
from headrace.bench.word_prompts import calibrate
from headrace.bench.workload import Ask
from headrace.client.endpoint import parse_endpoint
from headrace.core.errors import ConfigError
from headrace.core.message import Message

ASK = Ask(0, "one two three", 4)


async def outcome_of(script: Script, ask: Ask = ASK, timeout_s: float = 20.0) -> Outcome:
    async with completion_server(script) as server:
        target = HttpTarget(parse_endpoint(server.url), "tiny")
        (outcome,) = await LoadRun(target, timeout_s, lambda ended: None).closed([ask], 1)
    return outcome


async def test_an_answer_is_timed_and_counted() -> None:
    outcome = await outcome_of(lambda exchange: answer(exchange, gap_s=0.03))
    assert outcome.failure is None
    assert (outcome.input_tokens, outcome.output_tokens) == (OVERHEAD_TOKENS + 3, 4)
    # The first chunk has a role and no text: it is no token.
    assert len(outcome.event_s) == 4
    assert outcome.ttft_s is not None and outcome.e2e_s is not None
    assert 0.03 <= outcome.ttft_s < outcome.e2e_s
    assert outcome.tpot_s == pytest.approx(sum(outcome.itl_s) / 3)
    assert all(gap_s > 0.015 for gap_s in outcome.itl_s)
    assert outcome.cached_input_tokens is None


async def test_tokens_are_those_of_usage_not_of_chunks() -> None:
    async def two_chunks(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event(text("three tokens "))
        await exchange.event(text("and four", "stop"))
        details = {"prompt_tokens_details": {"cached_tokens": 5}}
        usage = {"prompt_tokens": 9, "completion_tokens": 7, **details}
        await exchange.event({"choices": [], "usage": usage})
        await exchange.event(b"[DONE]")
        await exchange.chunk(b"")

    outcome = await outcome_of(two_chunks)
    assert outcome.failure is None
    assert (outcome.input_tokens, outcome.cached_input_tokens, outcome.output_tokens) == (9, 5, 7)
    assert len(outcome.event_s) == 2
    assert outcome.tpot_s == pytest.approx(outcome.itl_s[0] / 6)


async def test_thoughts_and_calls_are_text_too() -> None:
    async def thinks(exchange: Exchange) -> None:
        await exchange.head()
        for delta in ({"reasoning_content": "hm"}, {"reasoning": "so"}, {"tool_calls": [{}]}):
            await exchange.event({"choices": [{"delta": delta}]})
        await exchange.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        await exchange.event(exchange.usage(3))
        await exchange.chunk(b"")  # some servers send no [DONE]

    outcome = await outcome_of(thinks)
    assert outcome.failure is None
    assert len(outcome.event_s) == 3


async def internal_error(exchange: Exchange) -> None:
    await exchange.reply("500 Internal Server Error", dump({"error": {"message": "no [room]"}}))


async def plain_error(exchange: Exchange) -> None:
    await exchange.reply("503 Service Unavailable", b"come\nback", "text/plain")


async def moved(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    )


async def web_page(exchange: Exchange) -> None:
    await exchange.reply("200 OK", b"<h1>hello</h1>", "text/html; charset=utf-8")


async def whole(exchange: Exchange) -> None:
    await exchange.reply("200 OK", dump({"choices": [{"message": {"content": "hi"}}]}))


async def stalls_before_headers(exchange: Exchange) -> None:
    await asyncio.Event().wait()


async def stalls_in_the_stream(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a"))
    await asyncio.Event().wait()


async def breaks_in_a_chunk(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a"))
    await exchange.send(b"ff\r\ndata: {")


async def ends_early(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a"))
    await exchange.chunk(b"")


async def ends_in_an_event(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a", "stop"))
    await exchange.event(exchange.usage(1))
    await exchange.chunk(b"data: {")
    await exchange.chunk(b"")


async def done_without_a_finish(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a"))
    await exchange.event(b"[DONE]")
    await exchange.chunk(b"")


async def fails_in_the_stream(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a"))
    await exchange.event({"error": {"message": "the engine died"}})
    await exchange.chunk(b"")


async def no_usage(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("a", "stop"))
    await exchange.event(b"[DONE]")
    await exchange.chunk(b"")


async def no_text(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(text("", "stop"))
    await exchange.event(exchange.usage(1))
    await exchange.event(b"[DONE]")
    await exchange.chunk(b"")


async def no_json(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(b"{nonsense")


async def no_object(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event([1, 2])


async def strange_shape(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event({"choices": [7]})


async def hangs_up(exchange: Exchange) -> None:
    exchange.writer.close()


async def no_http(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "kind", "message", "num_events"),
    [
        (internal_error, "http_500", "no [room]", 0),
        (plain_error, "http_503", "come back", 0),
        (moved, "http_307", "(to /elsewhere)", 0),
        (web_page, "bad_reply", "content-type text/html, expected text/event-stream: <h1>", 0),
        (whole, "bad_reply", "content-type application/json", 0),
        (stalls_before_headers, "timeout", "no complete answer within 1.0 s", 0),
        (stalls_in_the_stream, "timeout", "no complete answer within 1.0 s", 1),
        (breaks_in_a_chunk, "broken", "the connection broke", 1),
        (ends_early, "truncated", "the stream ended before the answer did", 1),
        (ends_in_an_event, "truncated", "the stream ended before the answer did", 1),
        (done_without_a_finish, "truncated", "the stream ended before the answer did", 1),
        (fails_in_the_stream, "error_event", "the engine died", 1),
        (no_usage, "no_usage", "without token counts", 1),
        (no_text, "no_text", "no first token", 0),
        (no_json, "bad_stream", "not JSON: {nonsense", 0),
        (no_object, "bad_stream", "not an object: [1, 2]", 0),
        (strange_shape, "bad_stream", "unknown shape", 0),
        (hangs_up, "broken", "the connection broke", 0),
        (no_http, "broken", "the connection broke", 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_goes_wrong_has_a_name(
    script: Script, kind: str, message: str, num_events: int
) -> None:
    outcome = await outcome_of(script, timeout_s=1.0 if kind == "timeout" else 20.0)
    assert outcome.failure is not None
    assert (outcome.failure.kind, len(outcome.event_s)) == (kind, num_events)
    assert message in outcome.failure.message
    assert outcome.e2e_s is None and not outcome.is_finished


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    target = HttpTarget(parse_endpoint(f"http://127.0.0.1:{port}"), "tiny")
    (outcome,) = await LoadRun(target, 5.0, lambda ended: None).closed([ASK], 1)
    assert outcome.failure is not None
    assert outcome.failure.kind == "connect"
    assert outcome.failure.message.startswith(f"127.0.0.1:{port}: ")


async def test_tls_is_spoken_and_certificates_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("a certificate needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([openssl, *made.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with completion_server(tls=context) as server:
        target = HttpTarget(parse_endpoint(server.url.replace("127.0.0.1", "localhost")), "tiny")
        run = LoadRun(target, 20.0, lambda ended: None)
        kinds = []
        for trusted in (None, certificate):
            if trusted is not None:
                monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
            http_exchange._trusted.cache_clear()
            kinds += [outcome.failure for outcome in await run.closed([ASK], 1)]
    http_exchange._trusted.cache_clear()
    assert kinds[0] is not None and kinds[0].kind == "connect"
    assert "certificate" in kinds[0].message.lower()
    assert kinds[1] is None


async def test_what_is_asked() -> None:
    async with completion_server() as server:
        endpoint = parse_endpoint(server.url + "/")
        chat = HttpTarget(endpoint, "tiny", api_key="secret", extra_body={"top_p": 0.5})
        plain = HttpTarget(
            endpoint, "tiny", "completions", ignore_eos=False, extra_body={"temperature": None}
        )
        run = LoadRun(chat, 20.0, lambda ended: None)
        messages = (Message("system", "Short."), Message("user", "Hi"))
        await run.closed([ASK, Ask(1, messages, 2)], 1)
        await LoadRun(plain, 20.0, lambda ended: None).closed([ASK], 1)
    first, second, third = server.seen
    assert first.path == "/v1/chat/completions" and third.path == "/v1/completions"
    assert first.headers["authorization"] == "Bearer secret"
    assert "authorization" not in third.headers
    assert first.headers["host"] == endpoint.authority
    assert first.body == {
        "model": "tiny", "messages": [{"role": "user", "content": "one two three"}],
        "max_tokens": 4, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True, "top_p": 0.5,
    }  # fmt: skip
    assert [message["role"] for message in second.body["messages"]] == ["system", "user"]
    assert third.body == {
        "model": "tiny", "prompt": "one two three", "max_tokens": 4, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert "secret" not in repr(chat)


async def test_a_server_tells_what_words_cost() -> None:
    async with completion_server() as server:
        known = await calibrate(HttpTarget(parse_endpoint(server.url), "tiny"), seed=0)
    assert (known.tokens_per_word, known.overhead_tokens) == (1.0, OVERHEAD_TOKENS)


async def test_a_server_that_counts_nothing_is_no_measure() -> None:
    async with completion_server(no_usage) as server:
        with pytest.raises(RequestFailed, match="sends no usage with its streams"):
            await calibrate(HttpTarget(parse_endpoint(server.url), "tiny"), seed=0)


async def test_models_are_listed() -> None:
    async with completion_server() as server:
        server.models = ("a/b", "c")
        assert await list_models(parse_endpoint(server.url), None) == ["a/b", "c"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost", "http://localhost/v1"),
        ("http://localhost:80/", "http://localhost/v1"),
        ("https://api.example.com/openai/v1/", "https://api.example.com/openai/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("HTTPS://example.com:8443", "https://example.com:8443/v1"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert parse_endpoint(url).url == shown


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8000", "ftp://x/v1", "http://", "http://x:99999", "http://x:y", "http://x:0",
        "http://x/v1?a=b", "http://x/v1#a", "http://x/a b", "http://ü/", "http://x/\n",
        "http://[::1",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--url is .*; allowed: an http or https address"):
        parse_endpoint(url)


def test_a_key_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_endpoint("https://me:hunter2@example.com/v1")
    assert "hunter2" not in refused.value.message
    assert "--api-key-env" in refused.value.message
