"""The Responses API with the official `openai` client, over FakeBackend and a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from test_disconnect import wait_forever

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from fakes.usage import open_database
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.errors import EngineDied, StoreError
from headrace.core.responses import ResponseStore
from headrace.store.responses import StoredResponses

TEXT = "Hello, wörld 🌊!"
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 4,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
FIELDS = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"),
    *("previous_response_id", "instructions", "output", "error", "tools", "tool_choice"),
    *("truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty"),
    *("frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}
ASK: dict[str, Any] = {"model": "tiny", "input": "hi"}
F: dict[str, Any] = {"type": "function", "name": "f"}


@contextmanager
def run_with_store(folder: Path, backend: FakeBackend | None = None) -> Iterator[RunningServer]:
    database = open_database(folder)
    store = StoredResponses(database, SystemClock(), retention_days=1)
    with run_server(backend, open_responses=lambda: store) as server:
        yield server
    database.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with run_with_store(tmp_path) as running:
        yield running


def post(server: RunningServer, **body: Any) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/responses", json=ASK | body)


def read_events(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.headers["content-type"].startswith("text/event-stream")
    return read_frames(reply.text)


def read_frames(text: str) -> list[dict[str, Any]]:
    """Every event of a stream, checked for its form."""
    *frames, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        TypeAdapter(ResponseStreamEvent).validate_python(event)
        events.append(event)
    return events


def without_ids(value: Any) -> Any:
    """A body with nothing that differs from call to call."""
    if isinstance(value, dict):
        changing = ("id", "created_at", "completed_at")
        return {k: without_ids(v) for k, v in value.items() if k not in changing}
    return [without_ids(part) for part in value] if isinstance(value, list) else value


def test_a_response_has_every_field(server: RunningServer) -> None:
    body = post(server).json()
    assert body.keys() >= FIELDS
    Response.model_validate(body)
    assert body["id"].startswith("resp_")
    assert body["output"][0]["id"].startswith("msg_")
    assert without_ids(body) == {
        "object": "response",
        "status": "completed",
        "incomplete_details": None,
        "model": "tiny",
        "previous_response_id": None,
        "instructions": None,
        "output": [
            {
                "status": "completed",
                "content": [{"text": TEXT, "type": "output_text", "annotations": []}],
                "type": "message",
                "role": "assistant",
            }
        ],
        "error": None,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "temperature": 1.0,
        "reasoning": {"effort": None, "summary": None},
        "usage": {
            "input_tokens": 2,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
        "max_output_tokens": None,
        "max_tool_calls": None,
        "store": True,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
        "user": None,
    }


def test_values_that_hold_are_shown(server: RunningServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with server.openai() as client:
        response = client.responses.create(
            model="tiny",
            input="hi",
            instructions="Be brief.",
            temperature=0.5,
            top_p=0.9,
            max_output_tokens=7,
            metadata={"k": "v"},
            service_tier="fast",
            truncation="auto",
            safety_identifier="s",
            prompt_cache_key="p",
            user="u",
            store=False,
            parallel_tool_calls=False,
            max_tool_calls=3,
            tool_choice="none",
            text={"format": {"type": "json_schema", "name": "A", "schema": schema}},
            reasoning={"effort": "none", "summary": "auto"},
            extra_body={"top_k": 5, "seed": 3, "frequency_penalty": 0.25, "wat": 1},
        )
    shown = response.model_dump()
    assert (shown["temperature"], shown["top_p"], shown["max_output_tokens"]) == (0.5, 0.9, 7)
    assert (shown["metadata"], shown["service_tier"]) == ({"k": "v"}, "default")
    assert (shown["truncation"], shown["store"], shown["user"]) == ("auto", False, "u")
    assert (shown["safety_identifier"], shown["prompt_cache_key"]) == ("s", "p")
    assert (shown["parallel_tool_calls"], shown["max_tool_calls"]) == (False, 3)
    assert (shown["tool_choice"], shown["instructions"]) == ("none", "Be brief.")
    assert response.reasoning.effort == "none"
    assert response.text.format.name == "A"
    assert response.text.format.strict is True
    request = server.backend.requests[0]
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
    ]
    sampling = request.sampling
    assert (sampling.top_k, sampling.seed, sampling.frequency_penalty) == (5, 3, 0.25)
    assert (sampling.temperature, sampling.max_tokens) == (0.5, 7)
    assert json.loads(sampling.structured_outputs.json) == schema


def test_events_come_in_order_and_are_numbered(server: RunningServer) -> None:
    events = read_events(post(server, stream=True))
    assert [event["type"] for event in events] == TEXT_EVENTS
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [e["response"]["status"] for e in events if "response" in e] == [
        *("in_progress", "in_progress", "completed")
    ]
    message_id = events[-1]["response"]["output"][0]["id"]
    for event in events[2:-1]:
        assert event.get("item_id", message_id) == message_id
        assert event["output_index"] == 0
        assert event.get("content_index", 0) == 0
    assert events[2]["item"] == {
        "id": message_id,
        "status": "in_progress",
        "content": [],
        "type": "message",
        "role": "assistant",
    }
    assert events[3]["part"] == {"text": "", "type": "output_text", "annotations": []}
    deltas = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == TEXT == events[-4]["text"] == events[-3]["part"]["text"]
    assert events[-2]["item"] == events[-1]["response"]["output"][0]


def test_the_streamed_response_equals_the_whole_one(server: RunningServer) -> None:
    ask = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    whole = post(server, **ask).json()
    events = read_events(post(server, **ask, stream=True))
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    logprobs = whole["output"][0]["content"][0]["logprobs"]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    streamed = [entry for event in deltas for entry in event["logprobs"]]
    assert streamed == logprobs == events[-4]["logprobs"]
    assert [entry["token"] for entry in logprobs] == ["Hello", ",", " wörld", "", " 🌊!"]
    assert [len(entry["top_logprobs"]) for entry in logprobs] == [2] * 5


def test_the_clients_stream_helper_and_parser(server: RunningServer) -> None:
    class Answer(BaseModel):
        a: int

    server.backend.pieces = ('{"a"', ": 1}")
    with server.openai() as client:
        with client.responses.stream(model="tiny", input="hi", text_format=Answer) as stream:
            texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        parsed = client.responses.parse(model="tiny", input="hi", text_format=Answer)
    assert "".join(texts) == final.output_text == '{"a": 1}'
    assert final.output_parsed == parsed.output_parsed == Answer(a=1)


async def test_async_client(server: RunningServer) -> None:
    client = AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)

    async def ask() -> str:
        stream = await client.responses.create(**ASK, stream=True)
        return "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])

    async with client:
        whole = await client.responses.create(**ASK)
        texts = await asyncio.gather(*(ask() for _ in range(5)))
        again = await client.responses.retrieve(whole.id)
    assert texts == [TEXT] * 5
    assert whole.output_text == again.output_text == TEXT


def test_the_token_limit_makes_it_incomplete(server: RunningServer) -> None:
    body = post(server, max_output_tokens=2).json()
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    assert body["output"][0]["content"][0]["text"] == "Hello,"
    events = read_events(post(server, max_output_tokens=2, stream=True))
    assert events[-1]["type"] == "response.incomplete"
    assert without_ids(events[-1]["response"]) == without_ids(body)


def test_an_empty_input_is_an_empty_message_as_in_a_chat(server: RunningServer) -> None:
    """A string stands for a message of the user, which may be empty; no message at all may not."""
    ask = {"model": "tiny", "messages": [{"role": "user", "content": ""}]}
    with server.client() as client:
        assert client.post("/v1/chat/completions", json=ask).status_code == 200
    assert post(server, input="").status_code == 200
    assert post(server, input=[{"role": "user", "content": ""}]).status_code == 200
    assert post(server, input=[]).status_code == 400


def test_an_empty_answer_is_an_empty_message(tmp_path: Path) -> None:
    with run_with_store(tmp_path, FakeBackend(pieces=("",))) as server:
        body = post(server).json()
        events = read_events(post(server, stream=True))
    assert body["output"][0]["content"][0]["text"] == ""
    assert [event["type"] for event in events] == TEXT_EVENTS[:4] + TEXT_EVENTS[8:]


def test_what_is_stored_is_what_was_answered(server: RunningServer) -> None:
    with server.openai() as client:
        made = client.responses.create(**ASK, metadata={"k": "v"})
        assert client.responses.retrieve(made.id) == made
        *_, last = client.responses.create(**ASK, stream=True)
        streamed = last.response
        assert client.responses.retrieve(streamed.id) == streamed
        client.responses.delete(made.id)
        for act in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError, match="There is no response") as missing:
                act(made.id)
            assert (missing.value.type, missing.value.code) == ("invalid_request_error", None)
        hidden = client.responses.create(**ASK, store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(hidden.id)
    with server.client() as raw:
        body = raw.delete(f"/v1/responses/{streamed.id}").json()
    assert body == {"id": streamed.id, "object": "response", "deleted": True}


def test_a_conversation_goes_on(server: RunningServer) -> None:
    with server.openai() as client:
        first = client.responses.create(model="tiny", input="one", instructions="Only now.")
        second = client.responses.create(
            model="tiny",
            input=[
                {"role": "developer", "content": "D"},
                {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
            ],
            previous_response_id=first.id,
        )
        third = client.responses.create(model="tiny", input="three", previous_response_id=second.id)
        pages = list(client.responses.input_items.list(third.id, limit=2, order="asc"))
        newest = client.responses.input_items.list(third.id, limit=3)
    assert third.previous_response_id == second.id
    assert [(m.role, m.content) for m in server.backend.requests[2].messages] == [
        ("user", "one"),
        ("assistant", TEXT),
        ("system", "D"),
        ("user", "two"),
        ("assistant", TEXT),
        ("user", "three"),
    ]
    texts = [item.content[0].text for item in pages]
    assert texts == ["one", TEXT, "D", "two", TEXT, "three"]
    assert pages[1] == first.output[0]
    assert [item.content[0].text for item in newest.data] == ["three", TEXT, "two"]
    assert (newest.first_id, newest.last_id) == (newest.data[0].id, newest.data[2].id)
    assert newest.has_more is True
    assert len({item.id for item in pages}) == 6


def test_a_conversation_whose_beginning_is_gone_does_not_go_on(server: RunningServer) -> None:
    with server.openai() as client:
        first = client.responses.create(**ASK)
        second = client.responses.create(**ASK, previous_response_id=first.id)
        client.responses.delete(first.id)
        for previous, gone in ((second.id, first.id), ("resp_x", "resp_x")):
            with pytest.raises(openai.BadRequestError, match=gone) as missing:
                client.responses.create(**ASK, previous_response_id=previous)
            assert missing.value.code == "previous_response_not_found"
            assert missing.value.param == "previous_response_id"


def test_items_of_every_kind_become_messages(server: RunningServer) -> None:
    items = [
        {"type": "message", "role": "user", "content": "a"},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "think"}], "encrypted_content": "zz"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2",
         "output": [{"type": "input_text", "text": "2"}, {"type": "input_text", "text": "3"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}],
         "phase": "final_answer"},
        {"role": "user", "content": [{"type": "input_text", "text": "x"}], "strange": 1},
    ]  # fmt: skip
    reply = post(server, input=items)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-headrace-warnings"] == "input[8].strange"
    messages = server.backend.requests[0].messages
    assert [(m.role, m.content) for m in messages] == [
        *(("user", "a"), ("assistant", "b"), ("tool", "1"), ("tool", "2\n3")),
        *(("assistant", "no"), ("user", "x")),
    ]
    assert messages[1].reasoning_content == "think"
    assert [(call.id, call.name) for call in messages[1].tool_calls] == [("c1", "f"), ("c2", "g")]
    assert messages[2].tool_call_id == "c1"
    with server.openai() as client:
        kept = list(client.responses.input_items.list(reply.json()["id"], order="asc"))
    assert [item.type for item in kept] == [item.get("type", "message") for item in items]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": []}, "input", "at least one item"),
    ({"input": [3]}, "input[0]", "an item: an object"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "one of user"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "send the item itself"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "hosted tool"),
    ({"input": [{"type": "wat"}]}, "input[0].type", "function_call_output"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0].type",
        "text only",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
        "missing",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        "input[0].call_id",
        "function_call before it",
    ),
    *(
        ({"tools": [{"type": kind}]}, "tools[0].type", f"{kind!r} would run at the server")
        for kind in ("web_search", "file_search", "code_interpreter", "mcp", "custom")
    ),
    ({"tools": [{"name": "f"}]}, "tools[0]", "an object"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "letters"),
    ({"tools": [F, F]}, "tools[1].name", "a name that no other tool has"),
    ({"tool_choice": "required"}, "tool_choice", "auto or none without tools"),
    ({"tool_choice": {}}, "tool_choice", "allowed_tools"),
    ({"tools": [F], "tool_choice": {"type": "function"}}, "tool_choice.name", "one of the tools"),
    (
        {"tools": [F], "tool_choice": {"type": "function", "name": "x"}},
        "tool_choice",
        "one of the tools: f",
    ),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", "at the server"),
    ({"include": ["file_search_call.results"]}, "include", "message.output_text.logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens", "1 or more"),
    ({"max_tokens": 5}, "max_tokens", "max_output_tokens"),
    ({"messages": []}, "messages", "input"),
    ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    ({"prompt": {"id": "p"}}, "prompt", "instructions"),
    ({"context_management": [{}]}, "context_management", "truncation"),
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "not served"),
    ({"truncation": "left"}, "truncation", "auto or disabled"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options", "stream: true"),
    ({"background": True, "store": False}, "store", "background"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort", "does not read it"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "auto"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "does not read it"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "missing"),
    (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": 3}}},
        "text.format.schema",
        "an object",
    ),
    ({"temperature": 3}, "temperature", "0 to 2"),
    ({"top_logprobs": 21}, "top_logprobs", "0 to 20"),
    ({"metadata": {"k": "v" * 513}}, "metadata", "512"),
    ({"input": "x" * 1000}, "input", "maximum context length is 1000 tokens"),
]


def test_bad_bodies_name_the_field(server: RunningServer) -> None:
    for body, param, words in BAD:
        reply = post(server, **body)
        assert reply.status_code == 400, (body, reply.text)
        error = reply.json()["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error"), body
        assert words in error["message"], error


def test_old_turns_go_only_where_they_may(tmp_path: Path) -> None:
    items = [{"role": "system", "content": "S"}]
    for turn in range(30):
        items += [
            {"role": "user", "content": f"{turn:02}" + "u" * 28},
            {"role": "assistant", "content": "a" * 30},
        ]
    items.append({"role": "user", "content": "last"})
    with run_with_store(tmp_path) as server:
        refused = post(server, input=items)
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        reply = post(server, input=items, truncation="auto", receipt=True)
        assert reply.status_code == 200, reply.text
        streamed = post(server, input=items, truncation="auto", stream=True)
        shown = server.backend.requests[-1].messages
        too_long = post(server, input="x" * 2000, truncation="auto")
        assert too_long.json()["error"]["code"] == "context_length_exceeded"
        with server.openai() as client:
            kept = list(client.responses.input_items.list(reply.json()["id"]))
    num_dropped = len(items) - len(shown)
    assert reply.headers["x-headrace-dropped-items"] == str(num_dropped)
    assert streamed.headers["x-headrace-dropped-items"] == str(num_dropped)
    assert 0 < num_dropped < 50
    assert reply.json()["receipt"]["requests"][0]["dropped_items"] == num_dropped
    assert [m.role for m in shown[:2]] == ["system", "user"]
    assert shown[-1].content == "last"
    assert shown[1].content.startswith(f"{num_dropped // 2:02}")
    # What was asked stays as it was asked.
    assert len(kept) == len(items)


def test_what_it_would_read_is_counted(server: RunningServer) -> None:
    with server.openai() as client:
        first = client.responses.create(**ASK)
        ask: dict[str, Any] = {"input": "more", "previous_response_id": first.id}
        counted = client.responses.input_tokens.count(**ask, instructions="I")
        used = client.responses.create(model="tiny", **ask, instructions="I").usage
        too_long = client.responses.input_tokens.count(model="tiny", input="x" * 3000)
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.input_tokens.count(model="tiny", input=[])
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", used.input_tokens)
    assert too_long.input_tokens == 3000
    assert refused.value.param == "input"
    assert len(server.backend.requests) == 2


def test_an_error_in_mid_stream_is_told_twice_and_kept(tmp_path: Path) -> None:
    async def die(_: object, step: int) -> None:
        if step == 2:
            raise EngineDied("The engine ended.")

    with run_with_store(tmp_path, FakeBackend(before_step=die)) as server:
        events = read_events(post(server, stream=True))
        with server.openai() as client:
            kept = client.responses.retrieve(events[0]["response"]["id"])
            with pytest.raises(openai.APIError, match="The engine ended"):
                list(client.responses.create(**ASK, stream=True))
            with pytest.raises(openai.InternalServerError):
                client.responses.create(**ASK)
    assert [event["type"] for event in events] == [
        *TEXT_EVENTS[:6],
        "error",
        "response.failed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(8))
    error = events[-2]
    assert error["error"] == {
        "type": "server_error",
        "code": None,
        "message": "The engine ended.",
        "param": None,
    }
    assert (error["code"], error["message"], error["param"]) == (None, "The engine ended.", None)
    failed = events[-1]["response"]
    assert (failed["status"], failed["output"][0]["status"]) == ("failed", "incomplete")
    assert failed["error"] == {"code": "server_error", "message": "The engine ended."}
    assert kept.model_dump() == Response.model_validate(failed).model_dump()


def test_a_server_without_a_store_answers_and_keeps_nothing() -> None:
    with run_server() as server:
        reply = post(server, store=True)
        assert reply.json()["store"] is False
        assert reply.headers["x-headrace-warnings"] == "store"
        assert "x-headrace-warnings" not in post(server).headers
        with server.openai() as client:
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(reply.json()["id"])
            with pytest.raises(openai.BadRequestError, match="not stored"):
                client.responses.create(**ASK, previous_response_id="resp_1")
            with pytest.raises(openai.BadRequestError, match="keeps no responses") as refused:
                client.responses.create(**ASK, background=True)
            assert refused.value.param == "background"


def test_a_store_that_fails_costs_no_answer() -> None:
    def fail() -> ResponseStore:
        raise StoreError("there", "The disk is full.")

    with run_server(open_responses=fail) as server:
        reply = post(server)
        assert (reply.status_code, reply.json()["store"]) == (200, False)
        assert read_events(post(server, stream=True))[-1]["response"]["store"] is False
        with server.openai() as client, pytest.raises(openai.InternalServerError) as down:
            client.responses.retrieve("resp_1")
    assert down.value.status_code == 503
    assert down.value.response.headers["retry-after"] == "5"


def test_a_client_that_leaves_stops_its_response(server: RunningServer) -> None:
    server.backend.before_step = wait_forever
    with server.openai() as client:
        stream = client.responses.create(**ASK, stream=True)
        begun = next(stream).response.id
        stream.close()
        assert server.backend.wait_until(lambda: bool(server.backend.closed))
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(begun)


def test_queries_are_checked(server: RunningServer) -> None:
    made = post(server).json()["id"]
    bad = {
        "?stream=maybe": "stream",
        "?starting_after=1": "starting_after",
        "?stream=true&starting_after=x": "starting_after",
        "?stream=true": "stream",
        "?include=wat": "include",
        "/input_items?limit=0": "limit",
        "/input_items?limit=1000": "limit",
        "/input_items?order=up": "order",
        "/input_items?after=x": "after",
    }
    with server.client() as client:
        for query, param in bad.items():
            reply = client.get(f"/v1/responses/{made}{query}")
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), query
        assert client.get(f"/v1/responses/{made}?x=1").headers["x-headrace-warnings"] == "x"
        wrong = client.put(f"/v1/responses/{made}")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD")
        assert client.head(f"/v1/responses/{made}").status_code == 200
        cancelled = client.post(f"/v1/responses/{made}/cancel")
        assert cancelled.status_code == 400
        assert "background: true" in cancelled.json()["error"]["message"]


def test_a_conversation_has_a_largest_size(tmp_path: Path) -> None:
    """Reasoning that no template shows costs no tokens, and would be read for every call."""
    database = open_database(tmp_path)
    store = StoredResponses(database, SystemClock(), retention_days=1)
    config = ServerConfig(max_body_bytes=4096)
    with run_server(config=config, open_responses=lambda: store) as server:
        thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x" * 3000}]}
        ask: dict[str, Any] = {"input": [thought, {"role": "user", "content": "hi"}]}
        kept: list[str] = []
        while (reply := post(server, **ask)).status_code == 200:
            kept.append(reply.json()["id"])
            ask["previous_response_id"] = kept[-1]
        with server.client() as client:
            items = client.get(f"/v1/responses/{kept[-1]}/input_items?limit=100")
    database.close()
    assert len(kept) in (3, 4)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "previous_response_id")
    assert "allowed: at most 16.0 KiB, four request bodies (max_body_bytes)" in error["message"]
    assert len(items.json()["data"]) == 3 * len(kept) - 1
