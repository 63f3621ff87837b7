"""The official `anthropic` client, unchanged, against `headrace serve` with the real model."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from served_model import TIMEOUT_S, ServedModel

SUM = [{"role": "user", "content": "What is 2 + 2? Answer with the number only."}]
GREEDY = {"temperature": 0}


def ask(served: ServedModel, **fields: Any) -> dict[str, Any]:
    defaults = {"model": served.model, "max_tokens": 40, "messages": SUM, "extra_body": GREEDY}
    return defaults | fields


@pytest.fixture
def client(served: ServedModel) -> Any:
    with Anthropic(
        base_url=served.address, api_key=served.api_key, max_retries=0, timeout=TIMEOUT_S
    ) as client:
        yield client


def test_messages_whole_and_streamed(served: ServedModel, client: Anthropic) -> None:
    whole = client.messages.create(**ask(served, system="You calculate."))
    with client.messages.stream(
        **ask(served, system=[{"type": "text", "text": "You calculate."}])
    ) as stream:
        streamed = stream.get_final_message()
    assert [block.text for block in whole.content] == ["4"]
    assert [block.text for block in streamed.content] == ["4"]
    assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 2)
    inputs = [
        answer.usage.input_tokens + answer.usage.cache_read_input_tokens
        for answer in (whole, streamed)
    ]
    counted = client.messages.count_tokens(
        model=served.model, messages=SUM, system="You calculate."
    )
    assert inputs == [counted.input_tokens] * 2


async def test_the_async_client(served: ServedModel) -> None:
    async with AsyncAnthropic(
        base_url=served.address, api_key=served.api_key, max_retries=0, timeout=TIMEOUT_S
    ) as client:
        whole = await client.messages.create(**ask(served))
        async with client.messages.stream(**ask(served)) as stream:
            text = "".join([part async for part in stream.text_stream])
    assert whole.content[0].text == text == "4"


def test_prefill_and_stop_sequences(served: ServedModel, client: Anthropic) -> None:
    begun = [
        {"role": "user", "content": "Count from 1 to 10, separated by commas."},
        {"role": "assistant", "content": "1, 2, 3,"},
    ]
    answer = client.messages.create(**ask(served, messages=begun, stop_sequences=[", 7"]))
    assert answer.content[0].text == " 4, 5, 6"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", ", 7")
    cut = client.messages.create(**ask(served, messages=begun, max_tokens=3))
    assert (cut.content[0].text, cut.stop_reason) == (" 4,", "max_tokens")


def test_a_prompt_again_is_read_from_the_cache(served: ServedModel, client: Anthropic) -> None:
    hint = {"type": "ephemeral"}
    system = [{"type": "text", "text": "You know rivers. " * 40, "cache_control": hint}]
    first, again = (
        client.messages.create(**ask(served, system=system, max_tokens=2)).usage for _ in range(2)
    )
    cached = again.cache_read_input_tokens
    assert first.cache_read_input_tokens < cached
    assert first.input_tokens + first.cache_read_input_tokens == again.input_tokens + cached


def test_an_answer_in_a_form(served: ServedModel, client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    question = [{"role": "user", "content": "What is the capital of France?"}]
    form = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(**ask(served, messages=question, output_config=form))
    assert json.loads(answer.content[0].text) == {"city": "Paris"}
    assert answer.stop_reason == "end_turn"


def test_the_context_bounds_an_answer_and_refuses_a_prompt(
    served: ServedModel, client: Anthropic
) -> None:
    with served.client() as plain:
        limit = plain.get("/v1/models").json()["data"][0]["max_model_len"]
    answer = client.messages.create(**ask(served, max_tokens=10 * limit))
    assert answer.stop_reason == "end_turn"
    long = [{"role": "user", "content": "x " * (2 * limit)}]
    assert client.messages.count_tokens(model=served.model, messages=long).input_tokens > limit
    with pytest.raises(anthropic.BadRequestError, match=f"maximum context length is {limit}"):
        client.messages.create(**ask(served, messages=long))


WEATHER = {
    "name": "get_weather",
    "description": "Current weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}])
def test_an_agents_loop(served: ServedModel, client: Anthropic, choice: dict[str, Any]) -> None:
    """A call, its result, and the answer that uses it."""
    turns: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    fields = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 80}
    whole = client.messages.create(**ask(served, messages=turns, **fields))
    with client.messages.stream(**ask(served, messages=turns, **fields)) as stream:
        streamed = stream.get_final_message()
    call, also = whole.content[-1], streamed.content[-1]
    assert (call.type, call.name, whole.stop_reason) == ("tool_use", "get_weather", "tool_use")
    assert "Paris" in call.input["city"]
    assert (also.name, also.input, streamed.stop_reason) == (call.name, call.input, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees and snow"}
    turns += [whole.to_param(), {"role": "user", "content": [result]}]
    # So small a model would call again.
    last = {"messages": turns, "tools": [WEATHER], "tool_choice": {"type": "none"}}
    counted = client.messages.count_tokens(model=served.model, **last)
    answer = client.messages.create(**ask(served, **last))
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted.input_tokens
    assert "snow" in answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
