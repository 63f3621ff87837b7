"""Tool calls: the real server, the real model, the openai client unchanged."""

from __future__ import annotations

import json
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


CHOICES = [
    ("required", ["get_weather", "add"]),
    (named("add"), ["add"]),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("add")]}},
     ["add"]),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "names"), CHOICES)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_forced_call_satisfies_its_schema_and_streams_to_the_same(
    served: ServedModel, choice: Any, names: list[str], temperature: float
) -> None:
    fields = {"tool_choice": choice, "temperature": temperature, "logprobs": True}
    answer = create(served, parallel_tool_calls=False, **fields)
    found = whole(answer)
    ((name, arguments),) = found["calls"]
    assert name in names
    values = json.loads(arguments)
    if name == "add":
        assert {key: type(value) for key, value in values.items()} == {"a": int, "b": int}
    else:
        assert values["unit"] in ("celsius", "kelvin")
        assert len(values["city"]) <= 20
    assert (found["content"], found["reason"]) == ("", "tool_calls")
    assert answer.choices[0].message.content is None
    assert answer.usage.completion_tokens == len(found["entries"])
    assert joined(create(served, parallel_tool_calls=False, stream=True, **fields)) == found


def test_several_calls_at_once(served: ServedModel) -> None:
    ask = [{"role": "user", "content": "Add 1 and 2, and add 3 and 4. Call add twice."}]
    fields = {"messages": ask, "tool_choice": "required", "max_completion_tokens": 120}
    answer = create(served, **fields)
    found = whole(answer)
    assert found["calls"]
    ids = [call.id for call in answer.choices[0].message.tool_calls]
    assert len(set(ids)) == len(ids)
    for _, arguments in found["calls"]:
        json.loads(arguments)
    assert joined(create(served, stream=True, **fields)) == found


def test_left_to_the_model(served: ServedModel) -> None:
    found = whole(create(served))
    assert [name for name, _ in found["calls"]] == ["get_weather"]
    assert "Paris" in json.loads(found["calls"][0][1])["city"]
    assert (found["content"], found["reason"]) == ("", "tool_calls")
    assert joined(create(served, stream=True)) == found
    free = create(served, tool_choice="none", max_completion_tokens=8)
    assert free.choices[0].message.tool_calls is None
    assert free.choices[0].message.content
    assert free.choices[0].finish_reason in ("stop", "length")


def test_an_agent_loop(served: ServedModel) -> None:
    """Call, result, answer."""
    messages: list[Any] = list(ASK)
    first = create(served, messages=messages, tool_choice=named("get_weather"))
    (call,) = first.choices[0].message.tool_calls
    messages.append(first.choices[0].message.model_dump(exclude_none=True))
    result = '{"temperature": 31, "sky": "clear"}'
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    again = create(served, messages=messages, max_completion_tokens=1)
    assert again.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens - 32
    last = create(served, messages=messages, tool_choice="none")
    assert last.choices[0].message.tool_calls is None
    assert "31" in last.choices[0].message.content
    assert last.choices[0].finish_reason == "stop"


def test_a_cut_call_says_so(served: ServedModel) -> None:
    fields = {"tool_choice": named("add"), "max_completion_tokens": 16}
    found = whole(create(served, **fields))
    assert found["reason"] == "length"
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
