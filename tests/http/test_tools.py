"""Tools, calls and reasoning on the wire: what reaches the backend, and how answers are worded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.errors import InvalidGrammar
from headrace.core.message import Tool, ToolChoice
from headrace.core.output import CompletionDelta, ToolCallDelta
from headrace.core.request import GenerateRequest

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"z": {}, "a": {}}}
F = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
G = {"type": "function", "function": {"name": "g", "strict": True}}
TOOLS = (Tool("f", "d", SCHEMA), Tool("g", is_strict=True))

ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [G, F]}}
CHOICES = [
    ({}, ToolChoice()),
    ({"tool_choice": "auto", "parallel_tool_calls": True}, ToolChoice()),
    ({"parallel_tool_calls": False}, ToolChoice(allows_parallel=False)),
    ({"tool_choice": "none"}, ToolChoice("none")),
    ({"tool_choice": "required"}, ToolChoice("required")),
    (
        {"tool_choice": {"type": "function", "function": {"name": "g"}}},
        ToolChoice("required", ("g",)),
    ),
    ({"tool_choice": ALLOWED}, ToolChoice("auto", ("g", "f"))),
]


@pytest.mark.parametrize(("fields", "choice"), CHOICES)
def test_tools_reach_the_backend(
    server: RunningServer, fields: dict[str, Any], choice: ToolChoice
) -> None:
    with server.client() as client:
        reply = client.post(CHAT, json=BODY | {"tools": [F, G]} | fields)
    assert reply.status_code == 200, reply.text
    assert "x-headrace-warnings" not in reply.headers
    request = server.backend.requests[-1]
    assert (request.tools, request.tool_choice) == (TOOLS, choice)
    assert list(request.tools[0].parameters["properties"]) == ["z", "a"]  # type: ignore[index]


def test_unknown_keys_are_named(server: RunningServer) -> None:
    tool = {"function": {"name": "f", "odd": 1}, "cache": 2}
    choice = {"type": "function", "function": {"name": "f"}, "more": 3}
    with server.client() as client:
        reply = client.post(CHAT, json=BODY | {"tools": [tool], "tool_choice": choice})
    warned = set(reply.headers["x-headrace-warnings"].split(","))
    assert {name.strip() for name in warned} == {
        "tools[0].cache",
        "tools[0].function.odd",
        "tool_choice.more",
    }


def test_the_number_of_tools_has_a_limit(server: RunningServer) -> None:
    tools = [{"function": {"name": f"f{index}"}} for index in range(513)]
    with server.client() as client:
        assert client.post(CHAT, json=BODY | {"tools": tools[1:]}).status_code == 200
        reply = client.post(CHAT, json=BODY | {"tools": tools})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "tools has 513 tools; allowed: at most 512."


# What each step adds: reasoning, text, and two calls, the second in one piece.
STEPS: list[dict[str, Any]] = [
    {"reasoning": "Let me "},
    {"reasoning": "see.", "text": "So:"},
    {"tool_calls": (ToolCallDelta(0, "call_1", "f", '{"z"'),)},
    {"tool_calls": (ToolCallDelta(0, None, None, ": 1}"), ToolCallDelta(1, "call_2", "g", "{}"))},
    {},
]


def say(delta: CompletionDelta, step: int) -> CompletionDelta:
    reason = delta.finish_reason and "tool_calls"
    return replace(delta, **({"text": "", "finish_reason": reason} | STEPS[step]))


def test_calls_and_reasoning_in_whole_answers() -> None:
    with run_server(FakeBackend(reworded=say)) as server, server.openai() as client:
        answer = client.chat.completions.create(**BODY, tools=[F, G])
        without = client.chat.completions.create(**BODY, extra_body={"include_reasoning": False})
    (choice,) = answer.choices
    message: Any = choice.message
    assert choice.finish_reason == "tool_calls"
    assert (message.content, message.reasoning, message.reasoning_content) == (
        "So:", "Let me see.", "Let me see.",
    )  # fmt: skip
    assert [(c.id, c.type, c.function.name, c.function.arguments) for c in message.tool_calls] == [
        ("call_1", "function", "f", '{"z": 1}'),
        ("call_2", "function", "g", "{}"),
    ]
    assert not hasattr(without.choices[0].message, "reasoning")


def test_calls_and_reasoning_in_chunks() -> None:
    with run_server(FakeBackend(reworded=say)) as server, server.openai() as client:
        chunks: list[Any] = list(client.chat.completions.create(**BODY, tools=[F, G], stream=True))
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks]
    pieces = [call for delta in deltas for call in delta.pop("tool_calls", ())]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning": "Let me ", "reasoning_content": "Let me "},
        {"content": "So:", "reasoning": "see.", "reasoning_content": "see."},
        {},
        {},
        {},
    ]
    assert pieces == [
        {"index": 0, "id": "call_1", "type": "function",
         "function": {"name": "f", "arguments": '{"z"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 1, "id": "call_2", "type": "function",
         "function": {"name": "g", "arguments": "{}"}},
    ]  # fmt: skip
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * 5 + ["tool_calls"]


def test_an_answer_of_calls_alone_has_no_content() -> None:
    def call(delta: CompletionDelta, step: int) -> CompletionDelta:
        calls = (ToolCallDelta(0, "call_1", "f", "{}"),) if step == 0 else ()
        return replace(delta, text="", tool_calls=calls)

    with run_server(FakeBackend(reworded=call)) as server, server.client() as client:
        message = client.post(CHAT, json=BODY).json()["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"] is None


async def refuse(request: GenerateRequest) -> None:
    raise InvalidGrammar("tools[1].parameters", "it is too hard.")


def test_a_schema_that_cannot_be_held_to_is_named_as_on_the_wire() -> None:
    with run_server(FakeBackend(admission=refuse)) as server, server.client() as client:
        reply = client.post(CHAT, json=BODY | {"tools": [F, G], "tool_choice": "required"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "tools[1].function.parameters"
    assert reply.json()["error"]["code"] == "invalid_grammar"
