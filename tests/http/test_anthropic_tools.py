"""Tools, calls and thinking in Anthropic's words: what reaches the backend, what comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from test_anthropic import ASK, COUNT, MESSAGES, check_error, events, official

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.errors import InvalidGrammar
from headrace.core.message import Tool, ToolChoice
from headrace.core.output import CompletionDelta, ToolCallDelta
from headrace.core.request import GenerateRequest

SCHEMA = {"type": "object", "properties": {"z": {}, "a": {}}}
F = {"name": "f", "description": "d", "input_schema": SCHEMA}
G = {"name": "g", "input_schema": {"type": "object"}, "type": "custom", "strict": True}
TOOLS = (Tool("f", "d", SCHEMA), Tool("g", None, {"type": "object"}, True))
THINKING = {"type": "enabled", "budget_tokens": 1024}
LONG = ASK | {"max_tokens": 5000}


def thinker(**fields: Any) -> FakeBackend:
    """A backend whose model reasons, and whose template has a switch for it."""
    info = replace(
        FakeBackend().info, has_reasoning=True, template_variables=frozenset({"enable_thinking"})
    )
    return FakeBackend(info=info, **fields)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(allows_parallel=False)),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "g"}, ToolChoice("required", ("g",))),
    ],
)
def test_tools_reach_the_backend(
    server: RunningServer, choice: dict[str, Any] | None, expected: ToolChoice
) -> None:
    body = ASK | {"tools": [F | {"cache_control": {"type": "ephemeral"}}, G]}
    with server.client() as client:
        reply = client.post(MESSAGES, json=body | {"tool_choice": choice})
        counted = client.post(COUNT, json={**body, "tool_choice": choice, "max_tokens": None})
    assert reply.status_code == counted.status_code == 200, reply.text
    assert "x-headrace-warnings" not in reply.headers
    request = server.backend.requests[-1]
    assert (request.tools, request.tool_choice) == (TOOLS, expected)
    assert request.splits_reasoning


# What each step adds: thinking, text, and two calls, the second in one piece.
STEPS: list[dict[str, Any]] = [
    {"reasoning": "Let me "},
    {"reasoning": "see.", "text": "So:"},
    {"tool_calls": (ToolCallDelta(0, "call_1", "f", '{"z"'),)},
    {"tool_calls": (ToolCallDelta(0, None, None, ": 1}"), ToolCallDelta(1, "call_2", "g", ""))},
    {},
]


def say(delta: CompletionDelta, step: int) -> CompletionDelta:
    reason = delta.finish_reason and "tool_calls"
    return replace(delta, **({"text": "", "finish_reason": reason} | STEPS[step]))


def shown(message: Any) -> list[Any]:
    """The blocks of a message, without ids of signatures."""
    return [
        {key: value for key, value in block.model_dump(exclude_none=True).items() if value != ""}
        for block in message.content
    ]


CALLS = [
    {"type": "text", "text": "So:"},
    {"type": "tool_use", "id": "call_1", "name": "f", "input": {"z": 1}},
    {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
]


def both(client: Anthropic, **fields: Any) -> tuple[Any, Any]:
    """The message whole and streamed, equal but for the id, which is the signature too."""
    whole = client.messages.create(**LONG | fields)
    with client.messages.stream(**LONG | fields) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        for block in message.content:
            if block.type == "thinking":
                assert block.signature == message.id
                block.signature = "s"
    assert shown(whole) == shown(streamed)
    assert (whole.stop_reason, whole.usage) == (streamed.stop_reason, streamed.usage)
    return whole, streamed


def test_calls_and_thinking_in_blocks() -> None:
    with run_server(thinker(reworded=say)) as server, official(server) as client:
        hidden, _ = both(client, tools=[F, G])
        whole, _ = both(client, tools=[F, G], thinking=THINKING)
        omitted, _ = both(client, thinking=THINKING | {"display": "omitted"})
        adaptive, _ = both(client, thinking={"type": "adaptive"})
        disabled, _ = both(client, thinking={"type": "disabled"})
        switches = [dict(request.chat_template_kwargs) for request in server.backend.requests[::2]]
    assert shown(hidden) == shown(disabled) == CALLS
    thought = {"type": "thinking", "thinking": "Let me see.", "signature": "s"}
    assert shown(whole) == shown(adaptive) == [thought, *CALLS]
    assert shown(omitted) == [{"type": "thinking", "signature": "s"}, *CALLS]
    assert whole.stop_reason == "tool_use"
    assert switches == [{"enable_thinking": on} for on in (False, True, True, True, False)]


def test_events_of_calls_and_thinking() -> None:
    body = LONG | {"stream": True, "thinking": THINKING, "tools": [F, G]}
    with run_server(thinker(reworded=say)) as server, server.client() as client:
        reply = client.post(MESSAGES, json=body)
    _, *blocks, end, _ = events(reply)
    assert reply.headers["x-headrace-warnings"] == "thinking.budget_tokens"
    told = [
        (event["index"], event["type"].removeprefix("content_block_"), event.get("delta"))
        for event in blocks
    ]
    signature = next(delta["signature"] for _, _, delta in told if delta and "signature" in delta)
    assert told == [
        (0, "start", None),
        (0, "delta", {"type": "thinking_delta", "thinking": "Let me "}),
        (0, "delta", {"type": "thinking_delta", "thinking": "see."}),
        (0, "delta", {"type": "signature_delta", "signature": signature}),
        (0, "stop", None),
        (1, "start", None),
        (1, "delta", {"type": "text_delta", "text": "So:"}),
        (1, "stop", None),
        (2, "start", None),
        (2, "delta", {"type": "input_json_delta", "partial_json": '{"z"'}),
        (2, "delta", {"type": "input_json_delta", "partial_json": ": 1}"}),
        (2, "stop", None),
        (3, "start", None),
        (3, "stop", None),
    ]
    starts = [event["content_block"] for event in blocks if event["type"].endswith("_start")]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": "", "citations": None},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
        {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
    ]
    assert end["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "{'a': 1}"])
def test_input_that_is_no_object_is_wrapped(text: str) -> None:
    def call(delta: CompletionDelta, step: int) -> CompletionDelta:
        calls = (ToolCallDelta(0, "c", "f", text),) if step == 0 else ()
        return replace(delta, text="", tool_calls=calls)

    with run_server(FakeBackend(reworded=call)) as server, server.client() as client:
        (block,) = client.post(MESSAGES, json=ASK | {"tools": [F]}).json()["content"]
    assert block["input"] == {"INVALID_JSON": text}


def bad(fields: dict[str, Any], message: str) -> Any:
    return pytest.param(ASK | fields, message, id=message[:50])


def tool(fields: dict[str, Any], message: str) -> Any:
    return bad({"tools": [F, {"name": "x", "input_schema": {}} | fields]}, message)


NAMES = "1 to 128 letters, digits and _ . : / -"
FORM = {"format": {"type": "json_schema", "schema": {}}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        bad({"tools": [5]}, "tools is [5]; allowed: a list of tools."),
        bad(
            {"tools": [{"name": "a"}]},
            "tools[0].input_schema is missing; give a JSON schema: an object.",
        ),
        tool({"name": "a b"}, f"tools[1].name is 'a b'; allowed: {NAMES}."),
        tool(
            {"name": "f"},
            "tools[1].name is 'f'; allowed: a name that no other tool has. tools[0] has this one.",
        ),
        tool(
            {"input_schema": {"type": "string"}},
            "tools[1].input_schema.type is 'string'; allowed: object.",
        ),
        tool(
            {"type": "web_search_20250305"},
            "tools[1].type is not supported: 'web_search_20250305' is not served. Use custom, with "
            "an input_schema.",
        ),
        tool(
            {"defer_loading": True},
            "tools[1].defer_loading is not supported: every tool is part of the prompt. Leave it "
            "out.",
        ),
        bad(
            {"tool_choice": {"type": "any"}},
            "tool_choice.type is 'any'; allowed: auto or none without tools.",
        ),
        bad(
            {"tools": [F], "tool_choice": {"type": "tool"}},
            "tool_choice.name is missing; give the name of one of the tools.",
        ),
        bad(
            {"tools": [F], "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice.name is 'x'; allowed: one of the tools: f.",
        ),
        bad(
            {"tools": [F], "tool_choice": {"type": "required"}},
            "tool_choice.type is 'required'; allowed: auto, any, tool or none.",
        ),
        bad(
            {"tools": [F], "output_config": FORM},
            'output_config.format is {"type": "json_schema", "schema": {}}; allowed: only without '
            'tools, or with a tool_choice of {"type": "none"}.',
        ),
        bad(
            {"thinking": {"type": "enabled"}},
            "thinking.budget_tokens is missing; give a whole number, 1024 or more.",
        ),
        bad(
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "thinking.budget_tokens is 1024; allowed: 1024 or more and less than max_tokens (100).",
        ),
    ],
)
def test_bad_input(server: RunningServer, body: dict[str, Any], message: str) -> None:
    with server.client() as client:
        check_error(client.post(MESSAGES, json=body), 400, "invalid_request_error", message)
    assert not server.backend.requests


def test_a_form_leaves_no_room_for_thinking() -> None:
    body = LONG | {"thinking": THINKING, "output_config": FORM}
    with run_server(thinker()) as server, server.client() as client:
        reply: httpx.Response = client.post(MESSAGES, json=body)
        assert client.post(MESSAGES, json=body | {"thinking": {"type": "adaptive"}}).is_success
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].endswith("allowed: only when thinking is not enabled.")


async def refuse(request: GenerateRequest) -> None:
    raise InvalidGrammar("tools[1].parameters", "it is too hard.")


def test_a_schema_that_cannot_be_held_to_is_named_as_on_the_wire() -> None:
    with run_server(FakeBackend(admission=refuse)) as server, server.client() as client:
        reply = client.post(MESSAGES, json=ASK | {"tools": [F, G], "tool_choice": {"type": "any"}})
    message = "tools[1].input_schema cannot be enforced: it is too hard."
    check_error(reply, 400, "invalid_request_error", message)
