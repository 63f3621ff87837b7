"""vLLM's routes beside OpenAI's: tokenizer, invocations, and those that are not served.

On the real engine's text side, whose tokens are bytes, and a template of `role:content` lines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from fakes.byte_tokenizer import BOS, EOS
from fakes.running_engine import running_engine, script
from fakes.served_app import run_server
from headrace.core.backend import Health

HI = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.Client]:
    async with running_engine(script("Hello.", EOS)) as running:
        with run_server(running.backend) as server, server.client() as client:  # type: ignore[arg-type]
            yield client


def check_refused(reply: httpx.Response, message: str, param: str | None) -> None:
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["message"], reply.json()["error"]["param"]) == (message, param)


def test_a_prompt_as_tokens_and_back(client: httpx.Client) -> None:
    text = "Grüße <eos>"
    tokens = [*"Grüße ".encode(), EOS]
    reply = client.post("/tokenize", json={"model": "tiny", "prompt": text, "wat": 1})
    assert reply.json() == {
        "count": len(tokens),
        "max_model_len": 512,
        "tokens": tokens,
        "token_strs": None,
    }
    assert reply.headers["x-headrace-warnings"] == "wat"
    back = client.post("/detokenize", json={"model": "tiny", "tokens": tokens})
    assert back.json() == {"prompt": text}


def test_tokens_have_texts_when_asked(client: httpx.Client) -> None:
    body = {"prompt": "aü", "return_token_strs": True, "add_special_tokens": False}
    reply = client.post("/tokenize", json=body)
    assert reply.json()["token_strs"] == ["a", "\ufffd", "\ufffd"]
    assert reply.json()["count"] == 3


def test_messages_through_the_template(client: httpx.Client) -> None:
    def count(**fields: Any) -> list[int]:
        reply = client.post("/tokenize", json={"messages": HI} | fields)
        assert reply.status_code == 200, reply.text
        tokens: list[int] = reply.json()["tokens"]
        return tokens

    assert count() == list(b"user:hi\n")
    begun = [*HI, {"role": "assistant", "content": "I"}]
    continued = count(messages=begun, continue_final_message=True, add_generation_prompt=False)
    assert continued == list(b"user:hi\nassistant:I")


def test_a_prompt_longer_than_the_context_has_tokens(client: httpx.Client) -> None:
    assert client.post("/tokenize", json={"prompt": "x" * 2000}).json()["count"] == 2000


def test_what_the_tokenizer_is(client: httpx.Client) -> None:
    assert client.get("/tokenizer_info").json() == {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "model": "tiny",
        "vocab_size": 258,
        "eos_token_ids": [EOS],
        "add_bos_token": False,
        "model_max_length": 512,
        "chat_template": None,
    }
    assert BOS == 256


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "prompt and messages are both missing; give one of them.", "prompt"),
        (
            {"prompt": "a", "messages": HI},
            "prompt and messages are both given; give one of them.",
            "prompt",
        ),
        ({"prompt": 5}, "prompt is 5; allowed: a string; or give messages.", "prompt"),
        ({"prompt": ""}, "prompt is ''; allowed: at least one token.", "prompt"),
        (
            {"prompt": "a", "add_generation_prompt": False},
            "add_generation_prompt is false; allowed: only together with messages.",
            "add_generation_prompt",
        ),
        (
            {"messages": HI, "add_special_tokens": True},
            "add_special_tokens is true; allowed: false with messages, whose template writes them.",
            "add_special_tokens",
        ),
        (
            {"messages": HI, "continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt is true; allowed: false when continue_final_message is true.",
            "add_generation_prompt",
        ),
        (
            {"messages": []},
            "messages is []; allowed: a list of at least one message object.",
            "messages",
        ),
        (
            {"messages": HI, "tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools is not supported: this model's chat template writes tool calls in a form that "
            'is not read here. Leave it out, or send tool_choice: "none".',
            "tools",
        ),
        (
            {"messages": HI, "chat_template": "x"},
            "chat_template is not supported: the model's own template is used. Leave it out.",
            "chat_template",
        ),
    ],
)
def test_bad_texts(client: httpx.Client, body: dict[str, Any], message: str, param: str) -> None:
    check_refused(client.post("/tokenize", json=body), message, param)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([258], "tokens is 258; allowed: 0 to 257."),
        ([-1], "tokens is -1; allowed: 0 to 257."),
        ([2**80], f"tokens is {2**80}; allowed: 0 to 257."),
        (["a"], 'tokens is ["a"]; allowed: a list of token ids.'),
        (None, "tokens is null; allowed: a list of token ids."),
    ],
)
def test_bad_tokens(client: httpx.Client, tokens: object, message: str) -> None:
    check_refused(client.post("/detokenize", json={"tokens": tokens}), message, "tokens")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_an_unknown_model(client: httpx.Client, path: str) -> None:
    reply = client.post(path, json={"model": "huge", "prompt": "a", "tokens": [1]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_invocations_answer_as_the_route_would(client: httpx.Client) -> None:
    chat = client.post("/invocations", json={"model": "tiny", "messages": HI}).json()
    text = client.post("/invocations", json={"model": "tiny", "prompt": "a"}).json()
    assert (chat["object"], text["object"]) == ("chat.completion", "text_completion")
    assert chat["choices"][0]["message"]["content"] == text["choices"][0]["text"] == "Hello."
    neither = client.post("/invocations", json={"model": "tiny"})
    assert neither.status_code == 400
    assert neither.json()["error"]["message"].startswith("The request body has none of messages,")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/pooling", "/v1/embeddings"),
        ("/v2/embed", "/v1/embeddings"),
        ("/v1/moderations", "/classify"),
        ("/completion", "/v1/completions"),
        ("/props", "/tokenizer_info"),
        ("/slots", "/debug/requests"),
    ],
)
def test_routes_without_a_fitting_model(client: httpx.Client, path: str, hint: str) -> None:
    reply = client.post(path, json={"model": "tiny", "input": "a"})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (404, "invalid_request_error")
    assert error["message"].startswith(f"There is no route '{path}'. ")
    assert hint in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("/score", {"text_1": "a", "text_2": "b"}, "scores no pairs"),
        ("/v2/rerank", {"query": "a", "documents": ["b"]}, "scores no pairs"),
        ("/classify", {"input": "a"}, "structured output choice"),
    ],
)
def test_routes_for_another_kind_of_model(
    client: httpx.Client, path: str, body: dict[str, object], hint: str
) -> None:
    reply = client.post(path, json={"model": "tiny", **body})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "model_not_supported")
    assert hint in error["message"]


def test_text_waits_for_a_model_that_is_ready() -> None:
    with run_server() as server, server.client() as client:
        server.backend.state = Health("starting")
        replies = [
            client.post("/tokenize", json={"prompt": "a"}),
            client.post("/detokenize", json={"tokens": [1]}),
            client.get("/tokenizer_info"),
        ]
    assert [reply.status_code for reply in replies] == [503] * 3


def test_repetition_detection(client: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 20}
    wanted = {"max_pattern_size": 1, "min_count": 2, "wat": 1}
    for stream in (False, True):
        reply = client.post(
            "/v1/completions", json=body | {"stream": stream, "repetition_detection": wanted}
        )
        assert reply.status_code == 200, reply.text
        assert '"finish_reason":"repetition"' in reply.text
        assert '"stop_reason":"repetition_detected"' in reply.text
        assert reply.headers["x-headrace-warnings"] == "repetition_detection.wat"
    refused = client.post(
        "/v1/completions", json=body | {"repetition_detection": {"max_pattern_size": 3}}
    )
    allowed = "repetition_detection.min_count is 0; allowed: a whole number from 2 to 2147483647."
    check_refused(refused, allowed, "repetition_detection.min_count")
    wrong = client.post(
        "/v1/completions", json=body | {"repetition_detection": {"max_pattern_size": "3"}}
    )
    allowed = "repetition_detection.max_pattern_size is '3'; allowed: a whole number, 0 or more."
    check_refused(wrong, allowed, "repetition_detection.max_pattern_size")
