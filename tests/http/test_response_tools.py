"""Function tools and reasoning in responses: items, events, and the turn that follows a call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_responses import post, read_events, run_with_store, without_ids

from fakes.fake_backend import FakeBackend
from headrace.core.errors import InvalidGrammar
from headrace.core.message import Tool, ToolCall, ToolChoice
from headrace.core.output import CompletionDelta, ToolCallDelta
from headrace.core.request import GenerateRequest

SCHEMA = {"type": "object", "properties": {"z": {}, "a": {}}}
F = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA}
G = {"type": "function", "name": "g", "strict": True}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [G, F]}

# What each step adds: reasoning, text, and two calls, the second in one piece.
STEPS: list[dict[str, Any]] = [
    {"reasoning": "Let me "},
    {"reasoning": "see.", "text": "So:"},
    {"tool_calls": (ToolCallDelta(0, "call_1", "f", '{"z"'),)},
    {"tool_calls": (ToolCallDelta(0, None, None, ": 1}"), ToolCallDelta(1, "call_2", "g", "{}"))},
    {},
]
TOOL_EVENTS = [
    *("response.created", "response.in_progress"),
    *("response.output_item.added", "response.content_part.added"),
    *["response.reasoning_text.delta"] * 2,
    *("response.reasoning_text.done", "response.content_part.done", "response.output_item.done"),
    *("response.output_item.added", "response.content_part.added", "response.output_text.delta"),
    *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
    "response.output_item.added",
    *["response.function_call_arguments.delta"] * 2,
    *("response.function_call_arguments.done", "response.output_item.done"),
    *("response.output_item.added", "response.function_call_arguments.delta"),
    *("response.function_call_arguments.done", "response.output_item.done"),
    "response.completed",
]


def say(delta: CompletionDelta, step: int) -> CompletionDelta:
    reason = delta.finish_reason and "tool_calls"
    return replace(delta, **({"text": "", "finish_reason": reason} | STEPS[step]))


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        (None, ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "g"}, ToolChoice("required", ("g",))),
        (ALLOWED, ToolChoice("auto", ("g", "f"))),
    ],
)
def test_tools_reach_the_backend_and_are_shown(tmp_path: Path, choice: Any, made: Any) -> None:
    with run_with_store(tmp_path) as server:
        reply = post(server, tools=[F, G], tool_choice=choice, parallel_tool_calls=False)
        request = server.backend.requests[0]
    assert reply.status_code == 200, reply.text
    assert "x-headrace-warnings" not in reply.headers
    assert request.tools == (Tool("f", "d", SCHEMA), Tool("g", is_strict=True))
    assert request.tool_choice == replace(made, allows_parallel=False)
    assert request.splits_reasoning
    body = reply.json()
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (choice or "auto", False)
    assert body["tools"] == [
        F | {"strict": False},
        G | {"description": None, "parameters": None},
    ]


def test_reasoning_text_and_calls_are_items(tmp_path: Path) -> None:
    with run_with_store(tmp_path, FakeBackend(reworded=say)) as server:
        whole = post(server, tools=[F, G]).json()
        events = read_events(post(server, tools=[F, G], stream=True))
        hidden = post(server, tools=[F, G], include_reasoning=False).json()
    assert without_ids(whole["output"]) == [
        {"type": "reasoning", "status": "completed", "summary": [],
         "content": [{"type": "reasoning_text", "text": "Let me see."}]},
        {"type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "So:", "annotations": []}]},
        {"type": "function_call", "status": "completed", "call_id": "call_1", "name": "f",
         "arguments": '{"z": 1}'},
        {"type": "function_call", "status": "completed", "call_id": "call_2", "name": "g",
         "arguments": "{}"},
    ]  # fmt: skip
    assert [item["id"].split("_")[0] for item in whole["output"]] == ["rs", "msg", "fc", "fc"]
    assert [item["type"] for item in hidden["output"]] == ["message", *["function_call"] * 2]
    assert [event["type"] for event in events] == TOOL_EVENTS
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    assert without_ids(final) == without_ids(whole)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == final["output"][event["output_index"]]["id"]
    arguments = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [(e["name"], e["arguments"]) for e in arguments] == [("f", '{"z": 1}'), ("g", "{}")]


def test_the_clients_helper_follows_calls(tmp_path: Path) -> None:
    with (
        run_with_store(tmp_path, FakeBackend(reworded=say)) as server,
        server.openai() as client,
        client.responses.stream(model="tiny", input="hi", tools=[F, G]) as stream,
    ):
        kind = "response.function_call_arguments.delta"
        snapshots = [event.snapshot for event in stream if event.type == kind]
        final = stream.get_final_response()
    assert snapshots == ['{"z"', '{"z": 1}', "{}"]
    assert [item.type for item in final.output] == [
        *("reasoning", "message", "function_call", "function_call"),
    ]


def test_a_call_is_answered_in_the_next_turn(tmp_path: Path) -> None:
    backend = FakeBackend(reworded=say)
    outputs = [
        {"type": "function_call_output", "call_id": "call_1", "output": "one"},
        {"type": "function_call_output", "call_id": "call_2", "output": "two"},
    ]
    with run_with_store(tmp_path, backend) as server:
        first = post(server, tools=[F, G]).json()
        by_id = post(server, input=outputs, previous_response_id=first["id"])
        question = {"role": "user", "content": "hi"}
        by_items = post(server, input=[question, *first["output"], *outputs])
        unknown = post(
            server,
            input=[{"type": "function_call_output", "call_id": "x", "output": ""}],
            previous_response_id=first["id"],
        )
        shown = [request.messages for request in server.backend.requests[1:]]
    assert (by_id.status_code, by_items.status_code) == (200, 200), by_items.text
    assert "x-headrace-warnings" not in by_items.headers
    assert unknown.json()["error"]["param"] == "input[0].call_id"
    assert shown[0] == shown[1]
    _, assistant, one, two = shown[0]
    assert (assistant.role, assistant.content) == ("assistant", "So:")
    assert assistant.reasoning_content == "Let me see."
    assert assistant.tool_calls == (
        ToolCall("call_1", "f", '{"z": 1}'),
        ToolCall("call_2", "g", "{}"),
    )
    assert [(m.role, m.content, m.tool_call_id) for m in (one, two)] == [
        ("tool", "one", "call_1"),
        ("tool", "two", "call_2"),
    ]


def test_a_call_that_is_cut_off_is_incomplete(tmp_path: Path) -> None:
    def cut(delta: CompletionDelta, step: int) -> CompletionDelta:
        calls = (ToolCallDelta(0, "call_1" if step == 0 else None, "f", "{"),)
        return replace(delta, text="", tool_calls=calls)

    with run_with_store(tmp_path, FakeBackend(reworded=cut)) as server:
        body = post(server, tools=[F], max_output_tokens=2).json()
    (call,) = body["output"]
    assert (body["status"], call["status"], call["arguments"]) == ("incomplete", "incomplete", "{{")


def test_a_schema_that_cannot_be_held_to_is_named_as_on_the_wire(tmp_path: Path) -> None:
    async def refuse(request: GenerateRequest) -> None:
        raise InvalidGrammar("tools[1].parameters", "it is too hard.")

    with run_with_store(tmp_path, FakeBackend(admission=refuse)) as server:
        error = post(server, tools=[F, G]).json()["error"]
    assert (error["param"], error["code"]) == ("tools[1].parameters", "invalid_grammar")


def test_sealed_reasoning_comes_back(tmp_path: Path) -> None:
    sealed = ["reasoning.encrypted_content"]
    with run_with_store(tmp_path, FakeBackend(reworded=say)) as server:
        first = post(server, include=sealed, store=False).json()["output"]
        word = first[0]["encrypted_content"]
        bare = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": word}
        reply = post(server, input=[bare, *first[1:2], {"role": "user", "content": "x"}])
        messages = server.backend.requests[1].messages
        for wrong in ("hr1.é", "hr1.a", "hr1.__8=", word[:-2] + "!="):
            items = [bare | {"encrypted_content": wrong}, {"role": "user", "content": "x"}]
            named = post(server, input=items).headers["x-headrace-warnings"]
            assert named == "input[0].encrypted_content"
    assert "x-headrace-warnings" not in reply.headers
    assert messages[0].reasoning_content == "Let me see."


def test_reasoning_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zz"},
        {"role": "user", "content": "hi"},
    ]
    with run_with_store(tmp_path) as server:
        reply = post(server, input=items)
    assert reply.headers["x-headrace-warnings"] == "input[0].encrypted_content"
