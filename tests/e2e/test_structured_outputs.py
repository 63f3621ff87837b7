"""Answers held to a form: the real server, the real model, the openai client unchanged."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field
from served_model import TIMEOUT_S, ServedModel


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=130)
    trade: Literal["poet", "baker", "smith"]


INVENT = [{"role": "user", "content": "Invent a person. Answer in JSON."}]
PERSON_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": Person.model_json_schema(), "strict": True},
}
MOOD = [{"role": "user", "content": "Is 'What a lovely day!' positive or negative?"}]
SQL = 'root ::= "SELECT " name " FROM " name ";"\nname ::= [a-z]{1,12}'


def test_a_pydantic_model_is_parsed(served: ServedModel) -> None:
    with served.openai() as client:
        answer = client.chat.completions.parse(
            model=served.model,
            messages=INVENT,  # type: ignore[arg-type]
            response_format=Person,
            temperature=0,
            max_completion_tokens=80,
        )
    (choice,) = answer.choices
    assert isinstance(choice.message.parsed, Person)
    assert choice.finish_reason == "stop"


def test_streamed_and_whole_are_equal(served: ServedModel) -> None:
    ask = {
        "model": served.model, "messages": INVENT, "response_format": PERSON_FORMAT, "n": 2,
        "max_completion_tokens": 80, "logprobs": True, "top_logprobs": 2,
        "temperature": 1.5, "seed": 11,
    }  # fmt: skip
    with served.openai() as client:
        whole = client.chat.completions.create(**ask)
        texts, entries, reasons = ["", ""], [[], []], [None, None]
        for chunk in client.chat.completions.create(**ask, stream=True):
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            entries[choice.index] += choice.logprobs.content if choice.logprobs else []
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert [choice.message.content for choice in whole.choices] == texts
    assert [choice.finish_reason for choice in whole.choices] == reasons == ["stop", "stop"]
    assert [choice.logprobs.content for choice in whole.choices] == entries
    for text, answer in zip(texts, entries, strict=True):
        Person.model_validate_json(text)
        assert b"".join(bytes(entry.bytes) for entry in answer).decode() == text
    assert whole.usage.completion_tokens == sum(map(len, entries))


FORMS: list[tuple[dict[str, Any], str]] = [
    ({"choice": ["positive", "negative"]}, "positive|negative"),
    ({"regex": r"[0-9]{3}-[0-9]{4}"}, "[0-9]{3}-[0-9]{4}"),
    ({"grammar": SQL}, "SELECT [a-z]{1,12} FROM [a-z]{1,12};"),
    ({"json": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "maxItems": 3},
      "disable_any_whitespace": True}, r"\[[12],[12],[12]\]"),
    ({"json": {"type": "string", "format": "date"}}, r'"\d{4}-\d\d-\d\d"'),
]  # fmt: skip


@pytest.mark.parametrize(("form", "pattern"), FORMS)
def test_the_other_forms_in_both_routes(
    served: ServedModel, form: dict[str, Any], pattern: str
) -> None:
    ask = {"temperature": 1.0, "seed": 5, "max_tokens": 40, "structured_outputs": form}
    with served.client() as client:
        bodies = [
            client.post(path, json={"model": served.model, **prompt, **ask})
            for path, prompt in (
                ("/v1/chat/completions", {"messages": MOOD}),
                ("/v1/completions", {"prompt": "The mood is"}),
            )
        ]
    for body in bodies:
        (choice,) = body.json()["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert re.fullmatch(pattern, text), text
        assert choice["finish_reason"] == "stop"


def test_any_json_object(served: ServedModel) -> None:
    with served.openai() as client:
        answer = client.chat.completions.create(
            model=served.model,
            messages=[{"role": "user", "content": 'Repeat exactly: {"a": 1, "b": [true]}'}],
            response_format={"type": "json_object"},
            temperature=0,
            max_completion_tokens=40,
        )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_a_cut_answer_says_so(served: ServedModel) -> None:
    ask = {"model": served.model, "messages": INVENT, "temperature": 0, "max_completion_tokens": 5}
    with served.openai() as client:
        cut = client.chat.completions.create(**ask, response_format=PERSON_FORMAT)
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**ask, response_format=Person)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)


def test_with_stops_penalties_and_least_lengths(served: ServedModel) -> None:
    def ask(**fields: Any) -> Any:
        body = {"model": served.model, "prompt": "Letters:", "temperature": 0, "max_tokens": 30}
        reply = client.post("/v1/completions", json=body | fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]

    letters = {"structured_outputs": {"regex": "[ac]{4}b[ac]{7}x?"}}
    with served.client() as client:
        free = ask(**letters)
        stopped = ask(stop=["b"], **letters)
        penalized = ask(frequency_penalty=2, repetition_penalty=1.5, **letters)
        complete = ask(min_tokens=20, ignore_eos=True, **letters)
    assert re.fullmatch("[ac]{4}b[ac]{7}x?", free["text"])
    assert stopped["text"] == free["text"].partition("b")[0]
    assert (stopped["stop_reason"], free["stop_reason"]) == ("b", None)
    assert re.fullmatch("[ac]{4}b[ac]{7}x?", penalized["text"])
    # with the end held back it goes on as far as the form goes, and no further
    assert re.fullmatch("[ac]{4}b[ac]{7}x", complete["text"])
    assert complete["finish_reason"] == "stop"


async def test_bound_and_free_answers_together_are_what_each_is_alone(served: ServedModel) -> None:
    forms = [None, *(form for form, _ in FORMS[:4]), {"json": Person.model_json_schema()}]
    asks: list[dict[str, Any]] = [
        {
            "model": served.model,
            "prompt": f"Item {i} {'of many ' * (i % 5)}:",
            "temperature": 0 if i % 2 else 1.0,
            "seed": i,
            "max_tokens": 6 + i % 4,
            "logprobs": 2,
            "extra_body": {"structured_outputs": forms[i % 6]} if forms[i % 6] else {},
        }
        for i in range(12)
    ]
    async with served.async_openai() as client:
        together = await asyncio.gather(*(client.completions.create(**ask) for ask in asks))
        alone = [await client.completions.create(**ask) for ask in asks]
    assert [answer.choices for answer in together] == [answer.choices for answer in alone]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"properties": {"a": {"not": {}}}}, "at properties.a: the keyword 'not'. Leave it out."),
        ({"type": "string", "format": "colour"}, "Unknown format: colour."),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
    ],
)
def test_a_bad_schema_is_refused_before_anything_is_queued(
    served: ServedModel, schema: dict[str, Any], reason: str
) -> None:
    bad = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    before = served.metric("vllm:prompt_tokens_total")
    with served.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=served.model,
            messages=INVENT,  # type: ignore[arg-type]
            response_format=bad,  # type: ignore[arg-type]
            stream=True,
        )
    error: Any = caught.value.body
    field = "response_format.json_schema.schema"
    assert (error["param"], error["code"]) == (field, "invalid_grammar")
    assert error["message"].startswith(f"{field} cannot be enforced: ")
    assert reason in error["message"]
    assert served.metric("vllm:prompt_tokens_total") == before


async def test_hostile_forms_do_not_hold_others_up(served: ServedModel) -> None:
    """Each ends in time, refused or followed, and a plain request beside them is answered."""
    bombs: list[dict[str, Any]] = [
        {"regex": "((a{1000}){1000}){1000}"},
        {"regex": "(.*a){30}.{500}"},
        {"grammar": 'start: e\ne: e e | "a" | e e e |'},
        {"json": {"allOf": [{"anyOf": [{"properties": {f"k{i}": {"const": j}}} for j in range(8)]}
                            for i in range(8)]}},
        {"json": {"properties": {f"p{i}": {} for i in range(400)}}},
    ]  # fmt: skip

    async def ask(client: AsyncOpenAI, **extra: Any) -> Any:
        try:
            return await client.completions.create(
                model=served.model, prompt="a", max_tokens=8, temperature=0, extra_body=extra
            )
        except openai.BadRequestError as error:
            return error

    async with served.async_openai() as client:
        plain, *others = await asyncio.wait_for(
            asyncio.gather(ask(client), *(ask(client, structured_outputs=bomb) for bomb in bombs)),
            timeout=TIMEOUT_S,
        )
    assert plain.usage.completion_tokens > 0
    for other in others:
        assert isinstance(other, openai.BadRequestError) or other.usage.completion_tokens > 0
    served.wait_until_idle()


def test_limits_that_leave_no_token_are_the_callers_fault(served: ServedModel) -> None:
    ask = {"model": served.model, "prompt": "la la", "max_tokens": 8}
    with served.client() as http:
        tokens = http.post("/tokenize", json={"model": served.model, "prompt": " a"}).json()
        (only,) = tokens["tokens"]
        form = {"allowed_token_ids": [only], "structured_outputs": {"choice": ["yes", "no"]}}
        for is_stream in (False, True):
            refused = http.post("/v1/completions", json=ask | form | {"stream": is_stream})
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_value")
            assert error["message"] == (
                "No token can be chosen as output token 1: allowed_token_ids and the form of the "
                "answer (structured_outputs.choice) together ban every one. Loosen one of them."
            )
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        forms = {
            "response_format": {"response_format": {"type": "json_object"}},
            "tool_choice": {"tools": [tool], "tool_choice": "required"},
        }
        for name, form in forms.items():
            chat = ask | form | {"messages": MOOD, "allowed_token_ids": [only], "prompt": None}
            error = http.post("/v1/chat/completions", json=chat).json()["error"]
            assert error["param"] == name
            assert f"the form of the answer ({name}) together" in error["message"]
    words = {"allowed_token_ids": [only], "bad_words": ["a a a"]}
    said = []
    with served.openai() as client, pytest.raises(openai.APIError, match="bad_words") as failed:
        for chunk in client.completions.create(**ask, stream=True, extra_body=words):
            said.append(chunk.choices[0].text)
    assert "".join(said) == " a a"
    assert failed.value.type == "invalid_request_error"
