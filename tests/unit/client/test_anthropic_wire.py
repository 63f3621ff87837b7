"""Anthropic's words: what a request becomes, and what events become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.upstreams import KEY, ask, events, scripted, upstream_of, words
from headrace.client.anthropic_wire import AnthropicWire
from headrace.client.wire_format import ErrorEvent, Malformed
from headrace.core.errors import UnsupportedParameter
from headrace.core.message import Message, Tool, ToolCall, ToolChoice
from headrace.core.output import RequestOutput, ToolCallDelta
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.upstreams import UpstreamConfig
from headrace.core.usage import Usage

FAR = UpstreamConfig(name="far", url="http://far", models=("tiny",), kind="anthropic")
START = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 5, "output_tokens": 1}},
}
END = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 15},
}
STOP = {"type": "message_stop"}


def body(request: GenerateRequest) -> dict[str, Any]:
    return AnthropicWire().body(request, FAR)


def read(*said: object) -> list[RequestOutput]:
    reader = AnthropicWire().reader(ask())
    outputs = [reader.read(json.dumps(event).encode()) for event in said]
    return [output for output in (*outputs, reader.end()) if output is not None]


def block(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def piece(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def test_a_conversation_in_turns_that_alternate() -> None:
    messages = (
        Message("system", "be brief"),
        Message("user", "find a and b"),
        Message(
            "assistant",
            "well",
            tool_calls=(ToolCall("c1", "find", '{"x": 1}'), ToolCall("c2", "find", "{broken")),
        ),
        Message("tool", "A", tool_call_id="c1"),
        Message("tool", "B", tool_call_id="c2"),
        Message("user", "and now?"),
    )
    made = body(ask(messages=messages))
    assert made["system"] == "be brief"
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant", "user"]
    assert made["messages"][1]["content"] == [
        {"type": "text", "text": "well"},
        {"type": "tool_use", "id": "c1", "name": "find", "input": {"x": 1}},
        {"type": "tool_use", "id": "c2", "name": "find", "input": {"INVALID_JSON": "{broken"}},
    ]
    assert [part["type"] for part in made["messages"][2]["content"]] == [
        "tool_result",
        "tool_result",
        "text",
    ]


def test_what_it_can_be_asked() -> None:
    form = StructuredOutputs(json={"type": "object"})
    sampling = SamplingParams(
        temperature=0.5, top_k=4, stop="x", seed=3, max_tokens=8, structured_outputs=form
    )
    tools = (Tool("a"), Tool("b", parameters={"type": "object"}))
    choice = ToolChoice("required", ("b",), allows_parallel=False)
    made = body(ask(sampling=sampling, tools=tools, tool_choice=choice))
    assert (
        made.items()
        >= {
            "max_tokens": 8,
            "temperature": 0.5,
            "top_k": 4,
            "stop_sequences": ["x"],
            "tools": [{"name": "b", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "tool", "name": "b", "disable_parallel_tool_use": True},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        }.items()
    )
    assert "seed" not in made


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": SamplingParams(n=2)}, "n"),
        ({"sampling": SamplingParams(logprobs=1)}, "logprobs"),
        ({"sampling": SamplingParams(temperature=1.5)}, "temperature"),
        ({"sampling": SamplingParams(frequency_penalty=1.0)}, "frequency_penalty"),
        ({"sampling": SamplingParams(logit_bias={1: 1.0})}, "logit_bias"),
        (
            {"sampling": SamplingParams(structured_outputs=StructuredOutputs(regex="a"))},
            "structured_outputs.regex",
        ),
        ({"messages": None, "prompt": "x"}, "prompt"),
    ],
)
def test_what_it_has_no_word_for_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        body(ask(**fields))
    assert caught.value.param == param


def test_blocks_become_reasoning_text_and_calls() -> None:
    outputs = read(
        START,
        block(0, type="thinking", thinking=""),
        piece(0, type="thinking_delta", thinking="hm"),
        piece(0, type="signature_delta", signature="abc"),
        {"type": "content_block_stop", "index": 0},
        {"type": "ping"},
        block(1, type="text", text=""),
        piece(1, type="text_delta", text="yes"),
        block(2, type="tool_use", id="c1", name="find", input={}),
        piece(2, type="input_json_delta", partial_json='{"a":'),
        piece(2, type="input_json_delta", partial_json="1}"),
        END | {"delta": {"stop_reason": "tool_use"}},
        STOP,
    )
    assert [output.deltas[0].reasoning for output in outputs[:2]] == ["hm", ""]
    assert outputs[1].deltas[0].text == "yes"
    assert [output.deltas[0].tool_calls for output in outputs[2:5]] == [
        (ToolCallDelta(0, "c1", "find"),),
        (ToolCallDelta(0, arguments='{"a":'),),
        (ToolCallDelta(0, arguments="1}"),),
    ]
    assert outputs[-1].deltas[0].finish_reason == "tool_calls"
    assert outputs[-1].usage == Usage(12, 5, 15)


def test_a_cut_stream_has_what_was_heard() -> None:
    reader = AnthropicWire().reader(ask())
    said = (START, *[piece(0, type="text_delta", text="a ")] * 4)
    outputs = [reader.read(json.dumps(event).encode()) for event in said]
    last = outputs[-1]
    assert last is not None
    assert last.usage == Usage(12, 5, 4, is_estimated=True)


def test_a_cut_stream_of_long_pieces_is_no_cheaper_than_its_text() -> None:
    """Some servers send many tokens at once; only their bytes say how many."""
    said = (START, *[piece(0, type="text_delta", text="words in one piece. " * 5)] * 3)

    def billed(max_tokens: int) -> Usage | None:
        reader = AnthropicWire().reader(ask(sampling=SamplingParams(max_tokens=max_tokens)))
        outputs = [reader.read(json.dumps(event).encode()) for event in said]
        return None if outputs[-1] is None else outputs[-1].usage

    assert billed(1000) == Usage(12, 5, 60, is_estimated=True)
    # A budget holds what was asked for; an estimate is no reason to be above it.
    assert billed(40) == Usage(12, 5, 40, is_estimated=True)


@pytest.mark.parametrize(
    ("reason", "expected", "stop"),
    [
        ("max_tokens", "length", None),
        ("stop_sequence", "stop", "x"),
        ("refusal", "stop", "refusal"),
        ("model_context_window_exceeded", "length", None),
    ],
)
def test_reasons(reason: str, expected: str, stop: str | None) -> None:
    said = {"stop_reason": reason, "stop_sequence": "x" if reason == "stop_sequence" else None}
    (delta,) = read(START, END | {"delta": said}, STOP)[-1].deltas
    assert (delta.finish_reason, delta.stop_reason) == (expected, stop)


@pytest.mark.parametrize(
    "broken",
    [
        piece(-1, type="text_delta", text="a"),
        piece(0, type="text_delta", text=3),
        piece(0, type="input_json_delta", partial_json="{"),
        {"type": "content_block_delta", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "because"}},
    ],
)
def test_what_the_api_does_not_have_is_malformed(broken: object) -> None:
    with pytest.raises(Malformed):
        read(START, broken, END, STOP)


def test_an_error_event_says_whether_it_is_busy() -> None:
    with pytest.raises(ErrorEvent) as caught:
        read({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert caught.value.is_busy


async def test_over_a_socket() -> None:
    text = piece(0, type="text_delta", text="all well")
    async with (
        scripted(events(START, text, END, STOP)) as server,
        upstream_of(server, kind="anthropic") as upstream,
    ):
        outputs = [output async for output in await upstream.generate(ask())]
    assert words(outputs) == "all well"
    assert outputs[-1].usage == Usage(12, 5, 15)
    assert server.seen[0].path == "/v1/messages"
    assert server.seen[0].headers["x-api-key"] == KEY
    assert server.seen[0].headers["anthropic-version"] == "2023-06-01"
