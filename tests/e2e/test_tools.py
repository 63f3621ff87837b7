"""Tool calls: the real server, the real model, the openai client unchanged."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import openai
import pytest
from served_model import ServedModel


def function(name: str, description: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    schema["additionalProperties"] = False
    inner = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": inner}


CITY = {"type": "string", "maxLength": 20}
WEATHER = function(
    "get_weather", "Current weather of a city.", city=CITY, unit={"enum": ["celsius", "kelvin"]}
)
ADD = function("add", "Add two numbers.", a={"type": "integer"}, b={"type": "integer"})
TOOLS = [WEATHER, ADD]
ASK = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]


def create(served: ServedModel, **fields: Any) -> Any:
    body = {"model": served.model, "messages": ASK, "tools": TOOLS, "temperature": 0, "seed": 3}
    with served.openai() as client:
        answer = client.chat.completions.create(**(body | {"max_completion_tokens": 80} | fields))
        return list(answer) if fields.get("stream") else answer


def joined(chunks: Any) -> dict[str, Any]:
    """The message and the end that the chunks of one choice join to."""
    content, calls, reason, entries = "", {}, None, []
    for chunk in chunks:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        entries += choice.logprobs.content if choice.logprobs else []
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or ():
            if piece.index not in calls:
                assert piece.id.startswith("call_")
                assert piece.type == "function"
                calls[piece.index] = [piece.function.name, ""]
            calls[piece.index][1] += piece.function.arguments
    return {"content": content, "calls": list(calls.values()), "reason": reason, "entries": entries}


def whole(answer: Any) -> dict[str, Any]:
    (choice,) = answer.choices
    message = choice.message
    calls = [[call.function.name, call.function.arguments] for call in message.tool_calls or ()]
    entries = choice.logprobs.content if choice.logprobs else []
    reason = choice.finish_reason
    return {"content": message.content or "", "calls": calls, "reason": reason, "entries": entries}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


CHOICES = [("required", 1.5, ["get_weather", "add"]), (named("add"), 0, ["add"])]


@pytest.mark.parametrize(("choice", "temperature", "names"), CHOICES)
def test_a_forced_call_satisfies_its_schema_and_streams_to_the_same(
    served: ServedModel, choice: Any, temperature: float, names: list[str]
) -> None:
    fields = {"tool_choice": choice, "temperature": temperature, "logprobs": True}
    answer = create(served, parallel_tool_calls=False, **fields)
    found = whole(answer)
    ((name, arguments),) = found["calls"]
    assert name in names
    check_arguments(name, arguments)
    assert (found["content"], found["reason"]) == ("", "tool_calls")
    assert answer.choices[0].message.content is None
    assert answer.usage.completion_tokens == len(found["entries"])
    assert joined(create(served, parallel_tool_calls=False, stream=True, **fields)) == found


def check_arguments(name: str, arguments: str) -> None:
    values = json.loads(arguments)
    if name == "add":
        assert {key: type(value) for key, value in values.items()} == {"a": int, "b": int}
    else:
        assert values["unit"] in ("celsius", "kelvin")
        assert len(values["city"]) <= 20


def test_several_calls_at_once(served: ServedModel) -> None:
    ask = [{"role": "user", "content": "Add 1 and 2, and add 3 and 4. Call add twice."}]
    answer = create(served, messages=ask, tools=[ADD], tool_choice="required")
    calls = answer.choices[0].message.tool_calls
    assert len({call.id for call in calls}) == len(calls) > 1
    for call in calls[:-1]:
        check_arguments("add", call.function.arguments)


def test_left_to_the_model(served: ServedModel) -> None:
    found = whole(create(served))
    assert [name for name, _ in found["calls"]] == ["get_weather"]
    assert "Paris" in json.loads(found["calls"][0][1])["city"]
    assert (found["content"], found["reason"]) == ("", "tool_calls")
    free = create(served, tool_choice="none", max_completion_tokens=4)
    assert free.choices[0].message.tool_calls is None
    assert free.choices[0].message.content
    assert free.choices[0].finish_reason in ("stop", "length")


def test_strict_functions_left_to_the_model(served: ServedModel) -> None:
    """The model would like another unit, and cannot have it."""
    strict = [{"type": "function", "function": t["function"] | {"strict": True}} for t in TOOLS]
    ask = [{"role": "user", "content": "What is the weather in Paris, in fahrenheit?"}]
    fields = {"tools": strict, "messages": ask, "stream": True}
    ((name, arguments),) = joined(create(served, **fields))["calls"]
    assert name == "get_weather"
    check_arguments(name, arguments)
    ask[0]["content"] = "Say hello."
    found = joined(create(served, **fields, max_completion_tokens=6))
    assert found["calls"] == []
    assert "ello" in found["content"]


def test_a_form_beside_tools(served: ServedModel) -> None:
    schema = {"type": "object", "properties": {"x": {"enum": ["red", "blue"]}}, "required": ["x"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}
    ask = [{"role": "user", "content": "Is the sky red or blue? Answer in JSON."}]
    found = whole(create(served, messages=ask, response_format=form))
    assert (found["calls"], found["reason"]) == ([], "stop")
    assert json.loads(found["content"])["x"] in ("red", "blue")


def test_a_result_continues_the_conversation(served: ServedModel) -> None:
    first = create(served, tool_choice=named("get_weather"))
    (call,) = first.choices[0].message.tool_calls
    said = first.choices[0].message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 31}'}
    again = create(served, messages=[*ASK, said, result], max_completion_tokens=1)
    assert again.usage.prompt_tokens > first.usage.prompt_tokens + 30
    assert again.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens - 32


def test_an_agent_loop_of_langchain(served: ServedModel) -> None:
    """Bound tools, a forced call whole and as a stream, its result, the answer as a stream."""
    chat_model = import_module("langchain_openai").ChatOpenAI
    messages = import_module("langchain_core.messages")
    model = chat_model(
        model=served.model, base_url=served.base_url, api_key="none", temperature=0, max_tokens=40
    )
    bound = model.bind_tools([WEATHER, ADD], tool_choice="add")
    talk: list[Any] = [messages.HumanMessage("What is 20 plus 11? Use add.")]
    called = bound.invoke(talk)
    (call,) = called.tool_calls
    assert call["name"] == "add"
    check_arguments("add", json.dumps(call["args"]))
    assert called.usage_metadata["output_tokens"] > 0
    pieces = list(bound.stream(talk))
    streamed = sum(pieces[1:], start=pieces[0])
    assert [(c["name"], c["args"]) for c in streamed.tool_calls] == [("add", call["args"])]
    result = messages.ToolMessage("The sum is 31.", tool_call_id=call["id"])
    told = [piece.content for piece in model.stream([*talk, called, result])]
    assert "31" in "".join(told)
    assert len(told) > 3


def test_a_cut_call_says_so(served: ServedModel) -> None:
    fields = {"tool_choice": named("add"), "max_completion_tokens": 16}
    found = joined(create(served, stream=True, **fields))
    assert found["reason"] == "length"
    assert [name for name, _ in found["calls"]] == ["add"]


@pytest.mark.parametrize("most", [1, 2, 4])
def test_what_is_left_of_a_call_is_no_content(served: ServedModel, most: int) -> None:
    """The mark of calls and the name need five tokens at least."""
    fields = {"tool_choice": "required", "max_completion_tokens": most}
    answer = create(served, **fields)
    found = whole(answer)
    assert (found["content"], found["calls"], found["reason"]) == ("", [], "length")
    assert answer.usage.completion_tokens == most
    assert joined(create(served, stream=True, **fields)) == found


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"properties": {"a": {"not": {}}}}, "at properties.a: the keyword 'not'. Leave it out."),
        ({"properties": {"a": {"pattern": "a(?=b)", "type": "string"}}}, "look-around"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_named(
    served: ServedModel, parameters: dict[str, Any], reason: str
) -> None:
    bad = {"type": "function", "function": {"name": "bad", "parameters": parameters}}
    with pytest.raises(openai.BadRequestError) as caught:
        create(served, tools=[ADD, bad], tool_choice="required")
    error: Any = caught.value.body
    assert error["param"] == "tools[1].function.parameters"
    assert reason in error["message"]
