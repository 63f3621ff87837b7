"""OpenAI's words: what a request becomes, and what chunks become."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fakes.upstreams import ask
from headrace.client.openai_wire import OpenAIWire
from headrace.client.wire_format import ErrorEvent, Malformed
from headrace.core.message import Message, Tool, ToolCall, ToolChoice
from headrace.core.output import RequestOutput, ToolCallDelta
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.upstreams import UpstreamConfig
from headrace.core.usage import Usage

FAR = UpstreamConfig(name="far", url="http://far", models=("tiny",))
TOOL = Tool("find", "finds", {"type": "object"}, is_strict=True)


def body(request: GenerateRequest, config: UpstreamConfig = FAR) -> dict[str, Any]:
    made = OpenAIWire().body(request, config)
    fixed = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}
    assert fixed.items() <= made.items()
    return {name: value for name, value in made.items() if name not in fixed}


def read(*chunks: object, request: GenerateRequest | None = None) -> list[RequestOutput]:
    reader = OpenAIWire().reader(request or ask())
    outputs = [reader.read(json.dumps(chunk).encode()) for chunk in chunks]
    return [output for output in (*outputs, reader.end()) if output is not None]


def chunk(finish_reason: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def test_defaults_are_not_named() -> None:
    assert body(ask("hi", sampling=SamplingParams())) == {
        "messages": [{"role": "user", "content": "hi"}]
    }


def test_what_differs_is_named() -> None:
    sampling = SamplingParams(
        temperature=0.0, top_p=0.5, n=2, seed=7, stop="x", logit_bias={5: -1.0}, max_tokens=9
    )
    assert body(ask("hi", sampling=replace(sampling, logprobs=2, top_k=4))) == {
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.0,
        "top_p": 0.5,
        "n": 2,
        "seed": 7,
        "stop": ["x"],
        "logit_bias": {"5": -1.0},
        "max_tokens": 9,
        "logprobs": True,
        "top_logprobs": 2,
        "top_k": 4,
    }


def test_what_stands_after_an_answer_is_said() -> None:
    asked = replace(ask(), messages=None, prompt="a", suffix="b")
    assert body(asked)["suffix"] == "b"


def test_openai_itself_knows_the_new_name_of_the_length() -> None:
    config = replace(FAR, url="https://api.openai.com/v1")
    assert body(ask(), config)["max_completion_tokens"] == 3
    assert body(replace(ask(), messages=None, prompt="x"), config)["max_tokens"] == 3


def test_a_seed_and_a_guess_are_left_out_where_they_are_not_taken() -> None:
    config = replace(FAR, refuses=("seed", "prediction", "stream_options"))
    made = OpenAIWire().body(ask(sampling=SamplingParams(seed=1), prediction="x"), config)
    assert not {"seed", "prediction", "stream_options"} & made.keys()


def test_calls_and_their_results() -> None:
    messages = (
        Message("user", "find it"),
        Message("assistant", None, tool_calls=(ToolCall("c1", "find", '{"a": 1}'),)),
        Message("tool", "found", name="find", tool_call_id="c1"),
    )
    choice = ToolChoice("required", ("find",), allows_parallel=False)
    made = body(ask(messages=messages, tools=(TOOL,), tool_choice=choice))
    function = {"name": "find", "arguments": '{"a": 1}'}
    assert made["messages"][1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": function}
    ]
    assert made["messages"][2]["tool_call_id"] == "c1"
    assert made["tools"][0]["function"] == {
        "name": "find",
        "description": "finds",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert made["tool_choice"] == {"type": "function", "function": {"name": "find"}}
    assert made["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            StructuredOutputs(json_object=True),
            {"response_format": {"type": "json_object"}},
        ),
        (
            StructuredOutputs(choice=("a", "b")),
            {"structured_outputs": {"choice": ["a", "b"]}},
        ),
        (StructuredOutputs(regex="a+"), {"structured_outputs": {"regex": "a+"}}),
    ],
)
def test_forms(form: StructuredOutputs, expected: dict[str, Any]) -> None:
    made = body(ask(sampling=SamplingParams(structured_outputs=form)))
    assert expected.items() <= made.items()


def test_a_schema_keeps_its_order() -> None:
    form = StructuredOutputs(json={"type": "object", "properties": {"b": {}, "a": {}}})
    made = body(ask(sampling=SamplingParams(structured_outputs=form)))
    schema = made["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["b", "a"]


def test_texts_reasoning_and_usage() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    outputs = read(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="hm"),
        chunk(content="yes"),
        chunk("stop"),
        {"choices": [], "usage": usage},
    )
    assert [o.deltas[0].reasoning for o in outputs] == ["hm", "", ""]
    assert [o.deltas[0].text for o in outputs] == ["", "yes", ""]
    assert outputs[-1].deltas[0].finish_reason == "stop"
    assert outputs[-1].usage == Usage(9, 5, 4, 2)


def test_pieces_of_calls() -> None:
    def call(**fields: Any) -> dict[str, Any]:
        return chunk(tool_calls=[fields])

    outputs = read(
        call(index=0, id="c1", function={"name": "find", "arguments": ""}),
        call(index=0, function={"arguments": '{"a":'}),
        call(index=0, function={"arguments": "1}"}),
        chunk("tool_calls"),
    )
    assert [output.deltas[0].tool_calls for output in outputs[:-1]] == [
        (ToolCallDelta(0, "c1", "find"),),
        (ToolCallDelta(0, arguments='{"a":'),),
        (ToolCallDelta(0, arguments="1}"),),
    ]
    assert outputs[-1].deltas[0].finish_reason == "tool_calls"


def test_logprobs_have_ranks() -> None:
    top = [{"token": "b", "logprob": -0.1}, {"token": "a", "logprob": -2.5, "bytes": [97]}]
    entry = {"token": "a", "logprob": -2.5, "bytes": [97], "top_logprobs": top}
    logprobs = {"content": [entry], "refusal": None}
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": logprobs}]}
    (position,) = read(first, chunk("stop"))[0].deltas[0].logprobs or ()
    assert (position.chosen.logprob, position.chosen.rank, position.chosen.bytes) == (-2.5, 2, b"a")
    assert [token.token for token in position.top] == ["b", "a"]


def test_logprobs_of_completions() -> None:
    request = replace(ask(), messages=None, prompt="x")
    logprobs = {
        "tokens": ["a"],
        "token_logprobs": [-1.5],
        "top_logprobs": [{"b": -0.5, "a": -1.5}],
    }
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "length"}
    (position,) = read({"choices": [choice]}, request=request)[0].deltas[0].logprobs or ()
    assert (position.chosen.logprob, position.chosen.rank) == (-1.5, 2)


def test_several_answers_end_each_for_itself() -> None:
    request = ask(sampling=SamplingParams(n=2))
    outputs = read(
        chunk(index=1, content="b"),
        chunk("length", 1),
        chunk("stop", 0, content="a"),
        request=request,
    )
    assert [(d.index, d.finish_reason) for d in outputs[-1].deltas] == [(0, "stop"), (1, "length")]


def test_an_answer_of_two_that_does_not_end_is_broken() -> None:
    with pytest.raises(Malformed, match="ended before"):
        read(chunk("stop", 0), request=ask(sampling=SamplingParams(n=2)))


def test_what_a_filter_cut_says_so() -> None:
    assert read(chunk("content_filter"))[-1].deltas[0].stop_reason == "content_filter"


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": [3]},
        {"choices": [{"index": -1}]},
        {"choices": [{"index": True}]},
        {"choices": [{"delta": []}]},
        {"choices": [{"delta": {"content": 4}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": "0"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": 1}]}}]},
        {"choices": [{"finish_reason": "because"}]},
        {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": "x"}]}}]},
        {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": 0, "bytes": [999]}]}}]},
    ],
)
def test_what_the_api_does_not_have_is_malformed(broken: object) -> None:
    with pytest.raises(Malformed):
        read(broken, chunk("stop"))


def test_an_error_in_the_stream() -> None:
    with pytest.raises(ErrorEvent, match="too much") as caught:
        read({"error": {"message": "too much", "type": "server_error"}})
    assert caught.value.is_busy
    with pytest.raises(ErrorEvent) as refused:
        read({"error": {"message": "no", "type": "invalid_request_error"}})
    assert not refused.value.is_busy
