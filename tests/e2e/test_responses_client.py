"""The Responses API: the real server, the real model, the openai client unchanged."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import openai
import pytest
from programs import eventually
from pydantic import BaseModel, ConfigDict, Field
from served_model import ServedModel, serve

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Current weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"enum": ["celsius", "kelvin"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}
SUM = "What is 2 + 2? Answer with the number only."


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=130)


def test_whole_and_streamed_are_equal(served: ServedModel) -> None:
    ask = {"model": served.model, "input": SUM, "temperature": 0, "top_logprobs": 2}
    with served.openai() as client:
        whole = client.responses.create(**ask)
        with client.responses.stream(**ask) as stream:
            deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
            streamed = stream.get_final_response()
        chat = client.chat.completions.create(
            model=served.model, messages=[{"role": "user", "content": SUM}], temperature=0
        )
        counted = client.responses.input_tokens.count(model=served.model, input=SUM)
    assert whole.output_text == streamed.output_text == "".join(deltas) == "4"
    assert whole.output_text == chat.choices[0].message.content
    assert whole.status == streamed.status == "completed"
    assert whole.output[0].content[0].logprobs == streamed.output[0].content[0].logprobs
    assert whole.usage.input_tokens == chat.usage.prompt_tokens == counted.input_tokens
    assert whole.usage.output_tokens == chat.usage.completion_tokens == 2


async def test_a_conversation_in_the_async_client(served: ServedModel) -> None:
    async with served.async_openai() as client:
        first = await client.responses.create(
            model=served.model, input="My name is Ada. Say hello.", temperature=0
        )
        second = await client.responses.create(
            model=served.model,
            input="What is my name? Answer with the name only.",
            previous_response_id=first.id,
            temperature=0,
        )
        items = [item async for item in client.responses.input_items.list(second.id, order="asc")]
    assert "Ada" in second.output_text
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert [item.role for item in items] == ["user", "assistant", "user"]
    assert items[1] == first.output[0]


def test_a_pydantic_model_is_parsed(served: ServedModel) -> None:
    with served.openai() as client:
        answer = client.responses.parse(
            model=served.model,
            input="Invent a person. Answer in JSON.",
            text_format=Person,
            temperature=0,
            max_output_tokens=80,
        )
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(
                model=served.model,
                input="x",
                text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "wat"}}},
            )
    assert isinstance(answer.output_parsed, Person)
    assert refused.value.param == "text.format.schema"


def test_in_the_background_and_cancelled(served: ServedModel) -> None:
    with served.openai() as client:
        made = client.responses.create(
            model=served.model, input=SUM, temperature=0, background=True
        )
        assert made.status == "queued"
        ended = ("completed", "failed")
        eventually(lambda: client.responses.retrieve(made.id).status in ended, "it has ended")
        assert client.responses.retrieve(made.id).output_text == "4"
        endless = client.responses.create(
            model=served.model,
            input="Write.",
            background=True,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        response_id = next(endless).response.id
        next(event for event in endless if event.type == "response.output_text.delta")
        endless.close()
        cancelled = client.responses.cancel(response_id)
    assert (cancelled.status, bool(cancelled.output_text)) == ("cancelled", True)
    served.wait_until_idle()


def test_an_agent_loop_with_a_forced_call(served: ServedModel) -> None:
    ask: dict[str, Any] = {
        "model": served.model,
        "input": "What is the weather in Paris, in celsius?",
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "temperature": 0,
        "max_output_tokens": 80,
    }
    with served.openai() as client:
        first = client.responses.create(**ask)
        with client.responses.stream(**ask) as stream:
            kind = "response.function_call_arguments.delta"
            deltas = [event.delta for event in stream if event.type == kind]
            streamed = stream.get_final_response()
        (call,) = first.output
        last = client.responses.create(
            model=served.model,
            input=[
                {
                    "type": "function_call_output",
                    "call_id": call.call_id,
                    "output": '{"temperature": 31, "sky": "clear"}',
                }
            ],
            previous_response_id=first.id,
            tools=[WEATHER],
            tool_choice="none",
            temperature=0,
            max_output_tokens=60,
        )
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    assert streamed.output[0].arguments == call.arguments == "".join(deltas)
    assert "31" in last.output_text


def test_stored_ones_outlive_a_server_that_is_killed(qwen05_path: Path, tmp_path: Path) -> None:
    database = tmp_path / "responses.db"
    url = f"sqlite:///{database}"
    with serve(qwen05_path, tmp_path, HEADRACE_DATABASE=url) as first, first.openai() as client:
        done = client.responses.create(model=first.model, input=SUM, temperature=0)
        running = client.responses.create(
            model=first.model, input="Write.", background=True, extra_body={"ignore_eos": True}
        )
        eventually(lambda: client.responses.retrieve(running.id).status == "in_progress", "it runs")
        first.program.process.send_signal(signal.SIGKILL)
        first.program.process.wait()
    with sqlite3.connect(database) as connection:
        # Time passes: the lease of a dead server ends by itself.
        connection.execute("UPDATE responses SET lease_until_ms = 1 WHERE status = 'in_progress'")
    with serve(qwen05_path, tmp_path, HEADRACE_DATABASE=url) as second, second.openai() as client:
        assert client.responses.retrieve(done.id) == done
        lost = client.responses.retrieve(running.id)
        again = "What is the number plus one?"
        going_on = client.responses.create(
            model=second.model, input=again, previous_response_id=done.id, temperature=0
        )
        whole = client.responses.create(
            model=second.model,
            input=[
                {"role": "user", "content": SUM},
                {"role": "assistant", "content": done.output_text},
                {"role": "user", "content": again},
            ],
            temperature=0,
        )
    assert (lost.status, lost.error.code) == ("failed", "server_error")
    assert "stopped before it was complete" in lost.error.message
    assert going_on.output_text == whole.output_text
    assert going_on.usage.input_tokens == whole.usage.input_tokens
