"""Anthropic's API over real HTTP: the official client, events as bytes, errors, limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from test_rate_limits import limited

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.backend import Health
from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError, EngineDied, UpstreamError, UpstreamTimeout
from headrace.core.message import Message, ToolCall
from headrace.core.request import GenerateRequest

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
TEXT = "Hello, wörld 🌊!"
HI = [{"role": "user", "content": "hi"}]
JSON = {"content-type": "application/json"}
ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 100, "messages": HI}


@pytest.fixture(scope="module")
def served() -> Iterator[RunningServer]:
    with run_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(served: RunningServer) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def official(server: RunningServer, api_key: str = "none") -> Anthropic:
    return Anthropic(base_url=server.address, api_key=api_key, max_retries=0, timeout=60)


def last_request(server: RunningServer) -> GenerateRequest:
    return server.backend.requests[-1]


def events(reply: httpx.Response, content: bytes | None = None) -> list[dict[str, Any]]:
    """Decode a stream and check that every frame is named after its type; comments are None."""
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    *blocks, rest = (reply.content if content is None else content).split(b"\n\n")
    assert rest == b""
    decoded = []
    for block in blocks:
        if block.startswith(b": "):
            continue
        name, _, data = block.partition(b"\n")
        payload = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + payload["type"].encode()
        decoded.append(payload)
    return decoded


def check_error(reply: httpx.Response, status: int, kind: str, message: str) -> None:
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json")
    body = reply.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["error"] == {"type": kind, "message": message}
    assert body["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]


def test_a_whole_message(served: RunningServer) -> None:
    with official(served) as client:
        answer = client.messages.create(
            **ASK, extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7}
        )
        raw = client.messages.with_raw_response.create(**ASK)
    assert answer.id.startswith("msg_")
    assert answer._request_id.startswith("req_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "tiny")
    assert [(block.type, block.text) for block in answer.content] == [("text", TEXT)]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.model_dump(exclude_none=True) == {
        "input_tokens": 2,
        "output_tokens": 5,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 0},
        "service_tier": "standard",
    }
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    request = served.backend.requests[-2]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.max_tokens, request.default_max_tokens) == (None, 100)
    assert request.messages == (Message("user", "hi"),)
    assert request.add_generation_prompt


MODELS = {"anthropic-version": "2023-06-01"}


def test_models_in_anthropics_form(served: RunningServer) -> None:
    with official(served) as client:
        (model,) = client.models.list()
        assert client.models.retrieve("tiny") == model
        with pytest.raises(anthropic.NotFoundError, match="gone"):
            client.models.retrieve("gone")
    assert (model.id, model.type, model.display_name) == ("tiny", "model", "org/tiny")
    assert (model.max_input_tokens, model.max_tokens, model.lifecycle) == (1000, 1000, "active")
    assert model.created_at == datetime.fromtimestamp(1_700_000_000, UTC)


def test_pages_of_models() -> None:
    names = ("a", "b/c", "d", "e")
    config = ServerConfig(port=0, served_model_names=names)
    with run_server(config=config) as server, official(server) as client:
        first = client.models.list(limit=3)
        assert [model.id for model in first.data] == ["a", "b/c", "d"]
        assert [model.id for model in first] == list(names)
        before = client.models.list(before_id="d", limit=1)
        assert ([model.id for model in before.data], before.has_more) == (["b/c"], True)
        assert [model.id for model in before] == ["b/c", "a"]
        assert client.models.retrieve("b/c").id == "b/c"
        with pytest.raises(anthropic.BadRequestError, match="after_id"):
            client.models.list(after_id="x")
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            client.models.list(limit=0)


def test_models_in_whose_words(client: httpx.Client) -> None:
    for path in ("/v1/models/gone", "/v1/models/gone/deeper"):
        assert client.get(path).json()["error"]["code"] == "model_not_found"
        reply = client.get(path, headers=MODELS)
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
    assert client.get("/v1/models").json()["object"] == "list"
    unknown = client.get("/v1/models?page=2", headers=MODELS)
    assert (unknown.status_code, unknown.headers["x-headrace-warnings"]) == (200, "page")
    assert client.get("/v1/models", headers={"anthropic-version": "1999"}).status_code == 400


def test_cached_tokens_are_not_input_tokens() -> None:
    with run_server(FakeBackend(num_cached_tokens=1)) as server, official(server) as client:
        usage = client.messages.create(**ASK).usage
        with client.messages.stream(**ASK) as stream:
            streamed = stream.get_final_message().usage
    for counted in (usage, streamed):
        parts = (counted.input_tokens, counted.cache_read_input_tokens)
        assert (*parts, counted.cache_creation_input_tokens) == (1, 1, 0)


def test_the_streaming_helper_joins_to_the_whole_message(served: RunningServer) -> None:
    with official(served) as client:
        whole = client.messages.create(**ASK)
        with client.messages.stream(**ASK) as stream:
            texts = list(stream.text_stream)
            final = stream.get_final_message()
    assert "".join(texts) == TEXT
    assert len(texts) == 4
    unlike = {"id"}
    assert final.model_dump(exclude=unlike) == whole.model_dump(exclude=unlike)


async def test_the_async_client(served: RunningServer) -> None:
    client = AsyncAnthropic(base_url=served.address, api_key="none", max_retries=0, timeout=60)

    async def ask() -> str:
        async with client.messages.stream(**ASK) as stream:
            return await stream.get_final_text()

    async with client:
        whole = await client.messages.create(**ASK)
        counted = await client.messages.count_tokens(model="tiny", messages=HI)
        texts = await asyncio.gather(*(ask() for _ in range(10)))
    assert whole.content[0].text == TEXT
    assert counted.input_tokens == 2
    assert texts == [TEXT] * 10


def test_events_in_their_order(client: httpx.Client) -> None:
    reply = client.post(MESSAGES, json=ASK | {"stream": True})
    start, *middle, end, stop = events(reply)
    message = start["message"]
    assert start["type"] == "message_start"
    assert message == {
        "id": message["id"],
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": message["usage"],
    }
    assert message["usage"]["input_tokens"] == 2
    assert middle[0] == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": "", "citations": None},
    }
    assert middle[-1] == {"type": "content_block_stop", "index": 0}
    deltas = middle[1:-1]
    assert [set(delta) for delta in deltas] == [{"type", "index", "delta"}] * 4
    assert all(delta["delta"]["type"] == "text_delta" for delta in deltas)
    assert "".join(delta["delta"]["text"] for delta in deltas) == TEXT
    assert end["type"] == "message_delta"
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None}
    assert end["usage"]["output_tokens"] == 5
    assert stop == {"type": "message_stop"}


def test_pings_only_after_the_start() -> None:
    """A request that waits sends comment lines, an answer that waits sends pings."""

    gates = [asyncio.Event(), asyncio.Event()]

    async def wait(_: object, step: int) -> None:
        if step < 2:
            await gates[step].wait()
            await asyncio.sleep(0.03)

    config, content = ServerConfig(heartbeat_s=0.01), b""
    with run_server(FakeBackend(before_step=wait), config) as server, server.client() as client:
        with client.stream("POST", MESSAGES, json=ASK | {"stream": True}) as reply:
            for part in reply.iter_bytes():
                content += part
                if b": waiting\n\n" in content:
                    server.call(gates[0].set)
                if b"event: ping\n" in content:
                    server.call(gates[1].set)
        with official(server) as other, other.messages.stream(**ASK) as stream:
            assert stream.get_final_text() == TEXT
    assert content.startswith(b": waiting\n\n")
    kinds = [event["type"] for event in events(reply, content)]
    assert kinds[0] == "message_start"
    assert "ping" in kinds


@pytest.mark.parametrize(
    ("backend", "max_tokens", "reason", "sequence"),
    [
        (FakeBackend(stop_reason="END"), 100, "stop_sequence", "END"),
        (FakeBackend(stop_reason=151645), 100, "end_turn", None),
        (FakeBackend(), 3, "max_tokens", None),
        (FakeBackend(finish_reason="length"), 100, "model_context_window_exceeded", None),
    ],
)
def test_stop_reasons(
    backend: FakeBackend, max_tokens: int, reason: str, sequence: str | None
) -> None:
    ask = ASK | {"max_tokens": max_tokens}
    with run_server(backend) as server, official(server) as client:
        whole = client.messages.create(**ask, stop_sequences=["END", "x"])
        with client.messages.stream(**ask) as stream:
            streamed = stream.get_final_message()
    assert backend.requests[0].sampling.stop == ("END", "x")
    for answer in (whole, streamed):
        assert (answer.stop_reason, answer.stop_sequence) == (reason, sequence)


def test_an_empty_answer_has_no_block() -> None:
    with run_server(FakeBackend(pieces=("",))) as server, official(server) as client:
        assert client.messages.create(**ASK).content == []
        with client.messages.stream(**ASK) as stream:
            assert stream.get_final_message().content == []


def text(value: str, **rest: Any) -> dict[str, Any]:
    return {"type": "text", "text": value} | rest


CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1, "b": "ü"}}
HINT = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({"system": "Be brief."}, [Message("system", "Be brief."), Message("user", "hi")]),
        (
            {"system": [text("One.", cache_control=HINT), text("Two.")], "cache_control": HINT},
            [Message("system", "One.\nTwo."), Message("user", "hi")],
        ),
        ({"system": ""}, [Message("user", "hi")]),
        (
            {"messages": [{"role": "user", "content": [text("a"), text("b", citations=None)]}]},
            [Message("user", "a\nb")],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "user", "content": [text("b")]},
                    {"role": "assistant", "content": "c"},
                    {"role": "assistant", "content": [text("d")]},
                    {"role": "user", "content": "e"},
                    {"role": "system", "content": "f"},
                ]
            },
            [
                Message("user", "a\nb"),
                Message("assistant", "c\nd"),
                Message("user", "e"),
                Message("system", "f"),
            ],
        ),
        (
            {
                "messages": [
                    *HI,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "hm", "signature": "x"},
                            text("Adding."),
                            CALL,
                        ],
                    },
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "3"},
                            text("and?"),
                        ],
                    },
                    {"role": "assistant", "content": [CALL | {"id": "toolu_2"}]},
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "toolu_2",
                                "content": [text("no"), text("way")],
                                "is_error": True,
                            }
                        ],
                    },
                ]
            },
            [
                Message("user", "hi"),
                Message(
                    "assistant",
                    "Adding.",
                    tool_calls=(ToolCall("toolu_1", "add", '{"a": 1, "b": "ü"}'),),
                    reasoning_content="hm",
                ),
                Message("tool", "3", name="add", tool_call_id="toolu_1"),
                Message("user", "and?"),
                Message(
                    "assistant", tool_calls=(ToolCall("toolu_2", "add", '{"a": 1, "b": "ü"}'),)
                ),
                Message("tool", "Error: no\nway", name="add", tool_call_id="toolu_2"),
            ],
        ),
        ({"messages": [*HI, {"role": "assistant", "content": ""}]}, [Message("user", "hi")]),
        ({"messages": [*HI, {"role": "assistant", "content": []}]}, [Message("user", "hi")]),
    ],
)
def test_what_becomes_of_messages(
    served: RunningServer, client: httpx.Client, body: dict[str, Any], messages: list[Message]
) -> None:
    reply = client.post(MESSAGES, json=ASK | body)
    assert reply.status_code == 200, reply.text
    assert "x-headrace-warnings" not in reply.headers
    request = last_request(served)
    assert request.messages == tuple(messages)
    assert (request.continue_final_message, request.add_generation_prompt) == (False, True)


def test_prefill_is_continued(served: RunningServer, client: httpx.Client) -> None:
    begun = {"role": "assistant", "content": [text("The answer"), text("is (")]}
    reply = client.post(MESSAGES, json=ASK | {"messages": [*HI, begun]})
    assert reply.json()["content"] == [{"type": "text", "text": TEXT, "citations": None}]
    request = last_request(served)
    assert request.messages is not None
    assert request.messages[-1] == Message("assistant", "The answer\nis (")
    assert (request.continue_final_message, request.add_generation_prompt) == (True, False)


def test_an_answer_can_be_sent_back(served: RunningServer) -> None:
    with official(served) as client:
        answer = client.messages.create(**ASK)
        again = [*HI, answer.to_param(), {"role": "user", "content": "more"}]
        client.messages.create(**ASK | {"messages": again})
    assert last_request(served).messages == (
        Message("user", "hi"),
        Message("assistant", TEXT),
        Message("user", "more"),
    )


def test_a_form_of_the_answer(served: RunningServer, client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "schema": schema}, "effort": "high"}
    assert client.post(MESSAGES, json=ASK | {"output_config": form}).status_code == 200
    asked = last_request(served).sampling.structured_outputs
    assert asked is not None
    assert json.loads(str(asked.json)) == schema


def test_thinking_and_effort_reach_templates_that_read_them() -> None:
    base = FakeBackend().info
    reads = frozenset({"enable_thinking", "reasoning_effort"})
    thinking = FakeBackend(info=type(base)("tiny", 1000, 0, "r", template_variables=reads))
    with run_server(thinking) as server, server.client() as client:
        client.post(MESSAGES, json=ASK)
        client.post(MESSAGES, json=ASK | {"output_config": {"effort": "low"}})
    first, second = (dict(request.chat_template_kwargs) for request in thinking.requests)
    assert first == {"enable_thinking": False}
    assert second == {"enable_thinking": False, "reasoning_effort": "low"}


@pytest.mark.parametrize("kind", ["disabled", "adaptive"])
def test_a_model_that_does_not_think_need_not(client: httpx.Client, kind: str) -> None:
    assert client.post(MESSAGES, json=ASK | {"thinking": {"type": kind}}).status_code == 200


def test_fields_without_effect_are_taken_and_unknown_ones_named(client: httpx.Client) -> None:
    body = {
        "metadata": {"user_id": "u", "extra": 1},
        "service_tier": "auto",
        "speed": "standard",
        "wat": 1,
        "mcp_servers": [],
        "messages": [{"role": "user", "content": [text("a", b=1)], "c": 2}],
    }
    reply = client.post(MESSAGES, json=ASK | body)
    assert reply.status_code == 200, reply.text
    named = "messages[0].c,messages[0].content[0].b,metadata.extra,wat"
    assert reply.headers["x-headrace-warnings"] == named


def bad(fields: dict[str, Any], message: str) -> Any:
    return pytest.param(ASK | fields, message, id=message[:50])


def block(content: Any, message: str, role: str = "user") -> Any:
    return bad({"messages": [{"role": role, "content": content}]}, message)


TEXT_ONLY = "This model takes text only."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(
            {"model": "tiny", "messages": HI},
            "max_tokens is missing; give a whole number, 1 or more.",
            id="no max_tokens",
        ),
        bad({"max_tokens": 0}, "max_tokens is 0; allowed: 1 or more."),
        bad({"max_tokens": "5"}, "max_tokens is '5'; allowed: a whole number, 1 or more."),
        bad({"messages": []}, "messages is []; allowed: a list of at least one message object."),
        bad(
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role is 'tool'; allowed: user, assistant or system.",
        ),
        bad(
            {"messages": [{"role": "user"}]},
            "messages[0].content is missing; give a string or a list of content blocks.",
        ),
        block([], "messages[0].content is []; allowed: at least one content block."),
        block(
            ["a"],
            "messages[0].content[0] is 'a'; allowed: an object such as "
            '{"type": "text", "text": "..."}.',
        ),
        block(
            [{"type": "image", "source": {}}],
            f"messages[0].content[0].type is 'image'; allowed: text or tool_result. {TEXT_ONLY}",
        ),
        block(
            [{"type": "redacted_thinking", "data": "x"}],
            "messages[0].content[0].type is 'redacted_thinking'; allowed: text or thinking or "
            f"tool_use. {TEXT_ONLY}",
            role="assistant",
        ),
        block([{"type": "text"}], "messages[0].content[0].text is missing; give a string."),
        block(
            [text("a", cache_control={"type": "forever"})],
            "messages[0].content[0].cache_control.type is 'forever'; allowed: ephemeral.",
        ),
        block(
            [text("a", cache_control={"type": "ephemeral", "ttl": "2h"})],
            "messages[0].content[0].cache_control.ttl is '2h'; allowed: 5m or 1h.",
        ),
        block(
            [{"type": "tool_result", "tool_use_id": "toolu_9"}],
            "messages[0].content[0].tool_use_id is 'toolu_9'; allowed: the id of a tool_use block "
            "in an earlier message.",
        ),
        bad(
            {"messages": [*HI, {"role": "assistant", "content": [CALL]}]},
            "messages ends with a tool_use block. Answer it with a user message that has its "
            "tool_result.",
        ),
        bad(
            {"system": [{"type": "image"}]},
            f"system[0].type is 'image'; allowed: text. {TEXT_ONLY}",
        ),
        bad({"system": 5}, "system is 5; allowed: a string or a list of text blocks."),
        bad({"temperature": 2.5}, "temperature is 2.5; allowed: 0 to 2."),
        bad(
            {"top_k": 1.5},
            "top_k is 1.5; allowed: a whole number: -1 or 0 (all), or 1 to 2147483647.",
        ),
        bad(
            {"stop_sequences": [""]},
            'stop_sequences is [""]; allowed: a list of non-empty strings.',
        ),
        bad({"stop_sequences": ["x"] * 65}, "stop_sequences has 65 texts; allowed: at most 64."),
        bad(
            {"stop_sequences": ["x" * 4097]},
            "stop_sequences has 4097 characters; allowed: at most 4096.",
        ),
        bad({"stream": 1}, "stream is 1; allowed: true or false."),
        bad({"speed": "fast"}, "speed is 'fast'; allowed: standard."),
        bad({"service_tier": "flex"}, "service_tier is 'flex'; allowed: auto or standard_only."),
        bad(
            {"response_format": {"type": "json_object"}},
            "response_format is not supported: this route knows it as output_config.format.",
        ),
        bad({"metadata": {"user_id": 5}}, "metadata.user_id is 5; allowed: a string."),
        bad(
            {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 3000},
            "thinking is not supported: this model does not think. Leave it out, or send "
            '{"type": "disabled"}.',
        ),
        bad(
            {"thinking": {"type": "maybe"}},
            "thinking.type is 'maybe'; allowed: enabled, disabled or adaptive.",
        ),
        bad(
            {"output_config": {"effort": "low"}},
            "output_config.effort is not supported: this model's chat template does not read it. "
            "Leave it out or send high.",
        ),
        bad(
            {"output_config": {"effort": "utmost"}},
            "output_config.effort is 'utmost'; allowed: low, medium, high, xhigh or max.",
        ),
        bad(
            {"output_config": {"format": {"type": "xml"}}},
            "output_config.format.type is 'xml'; allowed: json_schema.",
        ),
        bad(
            {"output_config": {"format": {"type": "json_schema"}}},
            "output_config.format.schema is null; allowed: a JSON schema: an object.",
        ),
        bad(
            {
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
                "messages": [*HI, {"role": "assistant", "content": "{"}],
            },
            'output_config.format is {"type": "json_schema", "schema": {}}; allowed: only when the '
            "last message is not the assistant's.",
        ),
        bad(
            {"tool_choice": {"type": "any"}},
            "tool_choice.type is 'any'; allowed: auto or none without tools.",
        ),
        bad(
            {"mcp_servers": [{"url": "x"}]},
            "mcp_servers is not supported: the server calls no other servers. Leave it out.",
        ),
        bad(
            {"output_format": {}},
            "output_format is not supported: the field is out of date. Use output_config.format.",
        ),
    ],
)
def test_bad_input(
    served: RunningServer, client: httpx.Client, body: dict[str, Any], message: str
) -> None:
    num_before = len(served.backend.requests)
    reply = client.post(MESSAGES, json=body)
    check_error(reply, 400, "invalid_request_error", message)
    assert len(served.backend.requests) == num_before


def test_count_tokens(served: RunningServer, client: httpx.Client) -> None:
    num_before = len(served.backend.requests)
    with official(served) as other:
        counted = other.messages.count_tokens(model="tiny", messages=HI, system="abc")
        assert counted.input_tokens == len("abc\nhi")
        with pytest.raises(anthropic.NotFoundError):
            other.messages.count_tokens(model="huge", messages=HI)
    long = [{"role": "user", "content": "x" * 5000}]
    reply = client.post(COUNT, json={"model": "tiny", "messages": long, "max_tokens": 3})
    assert reply.json() == {"input_tokens": 5000}
    assert reply.headers["x-headrace-warnings"] == "max_tokens"
    assert len(served.backend.requests) == num_before


def test_errors_become_the_clients_exceptions(served: RunningServer) -> None:
    with official(served) as client:
        with pytest.raises(anthropic.BadRequestError) as bad_request:
            client.messages.create(**ASK | {"max_tokens": -1})
        assert bad_request.value.body["error"]["type"] == "invalid_request_error"
        assert bad_request.value.request_id.startswith("req_")
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.messages.create(**ASK | {"model": "huge"})
        assert missing.value.body["error"]["type"] == "not_found_error"
        with pytest.raises(anthropic.BadRequestError, match="maximum context length is 1000"):
            client.messages.create(**ASK | {"messages": [{"role": "user", "content": "x" * 2000}]})


def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    async def die(_: object, step: int) -> None:
        if step == 2:
            raise EngineDied("The engine ended.")

    with run_server(FakeBackend(before_step=die)) as server, official(server) as client:
        texts = []
        with (
            pytest.raises(anthropic.APIStatusError) as dead,
            client.messages.stream(**ASK) as stream,
        ):
            texts += list(stream.text_stream)
        assert dead.value.body["error"] == {
            "type": "overloaded_error",
            "message": "The engine ended.",
        }
        with server.client() as raw:
            reply = raw.post(MESSAGES, json=ASK | {"stream": True})
    kinds = [event["type"] for event in events(reply)]
    assert (kinds[0], kinds[-1]) == ("message_start", "error")
    assert "message_stop" not in kinds
    assert events(reply)[-1]["request_id"] == reply.headers["request-id"]


async def _refuse(_: object) -> None:
    raise CapacityError("The queue is full.", 2.5)


async def _break_down(_: object) -> None:
    raise ZeroDivisionError("secret")


def test_the_envelope_speaks_anthropic_under_this_path_alone() -> None:
    config = ServerConfig(max_body_bytes=2000)
    with run_server(config=config) as server, server.client() as client:
        no_route = client.get("/v1/messages/batches")
        check_error(
            no_route,
            404,
            "not_found_error",
            "There is no route '/v1/messages/batches'. POST /v1/files and POST /v1/batches run a "
            "file of requests.",
        )
        method = client.get(MESSAGES)
        allowed = "This route does not take that method; allowed: POST."
        check_error(method, 405, "invalid_request_error", allowed)
        assert method.headers["allow"] == "POST"
        large = client.post(MESSAGES, content=b" " * 3000, headers=JSON)
        assert large.json()["error"]["type"] == "request_too_large"
        assert large.status_code == 413
        kind = client.post(MESSAGES, content=b"{}", headers={"content-type": "text/plain"})
        assert (kind.status_code, kind.json()["error"]["type"]) == (415, "invalid_request_error")
        broken = client.post(MESSAGES, content=b"{", headers=JSON)
        assert (broken.status_code, broken.json()["type"]) == (400, "error")
        version = client.post(MESSAGES, json=ASK, headers={"anthropic-version": "2023-01-01"})
        check_error(
            version,
            400,
            "invalid_request_error",
            "The header anthropic-version is '2023-01-01'; allowed: 2023-06-01 or 2026-10-21.",
        )
        assert "param" in client.get("/v1/messages_").json()["error"]
        server.backend.admission = _refuse
        full = client.post(MESSAGES, json=ASK)
        check_error(full, 429, "overloaded_error", "The queue is full.")
        assert full.headers["retry-after"] == "3"
        server.backend.admission = _break_down
        broken_down = client.post(MESSAGES, json=ASK, headers={"x-request-id": "mine-1"})
        check_error(
            broken_down,
            500,
            "api_error",
            "The server failed to answer. The log has more under request id mine-1.",
        )
        for error, status, kind in (
            (UpstreamError("It failed.", "far", 500), 502, "api_error"),
            (UpstreamTimeout("It said nothing.", "far"), 504, "timeout_error"),
        ):

            async def fail(_: object, error: Exception = error) -> None:
                raise error

            server.backend.admission = fail
            check_error(client.post(MESSAGES, json=ASK), status, kind, str(error))
        server.backend.state = Health("draining")
        draining = client.post(MESSAGES, json=ASK)
        message = "The server is draining. Send the request again later."
        check_error(draining, 503, "overloaded_error", message)
        assert draining.headers["retry-after"] == "5"


def test_keys_and_limits_in_anthropics_words() -> None:
    with limited(requests_per_minute=2, output_tokens_per_minute=600) as serving:
        with (
            official(serving.server, "wrong") as client,
            pytest.raises(anthropic.AuthenticationError) as unknown,
        ):
            client.messages.create(**ASK)
        assert unknown.value.body["error"]["type"] == "authentication_error"
        with official(serving.server, "hr_k_secret") as client:
            raw = client.messages.with_raw_response.create(**ASK)
            client.messages.count_tokens(model="tiny", messages=HI)
            with pytest.raises(anthropic.RateLimitError) as full:
                client.messages.create(**ASK)
        now = datetime.fromtimestamp(serving.clock.unix_s(), UTC)
    headers = raw.headers
    assert headers["anthropic-ratelimit-requests-limit"] == "2"
    assert headers["anthropic-ratelimit-requests-remaining"] == "1"
    reset = datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"])
    assert reset - now == timedelta(seconds=30)
    assert headers["anthropic-ratelimit-output-tokens-limit"] == "600"
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert full.value.body["error"]["type"] == "rate_limit_error"
    assert full.value.response.headers["retry-after"] == "30"
    assert "anthropic-ratelimit-requests-limit" in full.value.response.headers
