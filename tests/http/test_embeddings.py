"""Vectors over HTTP: the real engine around a model whose state of a token is (id, 1, position)."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import OpenAI
from test_rate_limits import limited

from fakes.fake_backend import FakeBackend
from fakes.running_engine import Running, running_engine
from fakes.served_app import RunningServer, run_server

PATH = "/v1/embeddings"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[tuple[Running, RunningServer]]:
    async with running_engine(max_waiting_requests=60) as running:
        with run_server(running.backend) as server:  # type: ignore[arg-type]
            yield running, server


@pytest.fixture
def client(served: tuple[Running, RunningServer]) -> AsyncIterator[httpx.Client]:
    with served[1].client() as client:
        yield client  # type: ignore[misc]


def post(client: httpx.Client, given: object, **fields: Any) -> httpx.Response:
    return client.post(PATH, json={"model": "tiny", "input": given} | fields)


def vectors(reply: httpx.Response) -> list[list[float]]:
    assert reply.status_code == 200, reply.text
    data = reply.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"] for entry in data]


def unit(*values: float) -> list[float]:
    return [pytest.approx(value / math.hypot(*values), rel=1e-6) for value in values]


def test_the_whole_answer(client: httpx.Client) -> None:
    reply = post(client, "ab", user="u", wat=1)
    assert reply.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": unit(98, 1, 1)}],
        "model": "tiny",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    assert reply.headers["x-headrace-warnings"] == "wat"


@pytest.mark.parametrize("given", ["ab", ["ab"], [97, 98], [[97, 98]]])
def test_the_four_forms_of_an_input(client: httpx.Client, given: object) -> None:
    assert vectors(post(client, given)) == [unit(98, 1, 1)]


def test_pooling_and_length(client: httpx.Client) -> None:
    assert vectors(post(client, "abd", pooling="mean")) == [unit(295 / 3, 1, 1)]
    assert vectors(post(client, "abd", normalize=False)) == [[100, 1, 2]]
    assert vectors(post(client, "abd", pooling="mean", normalize=False, dimensions=2)) == [
        [pytest.approx(295 / 3), 1]
    ]
    assert vectors(post(client, "abd", dimensions=2)) == [unit(100, 1)]
    assert vectors(post(client, "abd", truncate_prompt_tokens=1, normalize=False)) == [[100, 1, 0]]


def test_a_mean_over_many_steps_and_blocks(client: httpx.Client) -> None:
    """The fake model checks that each position comes once, in order, also after a prefix hit."""
    text = "x" * 300
    for _ in range(2):
        assert vectors(post(client, text, pooling="mean", normalize=False)) == [[120, 1, 149.5]]
    assert vectors(post(client, text, normalize=False)) == [[120, 1, 299]]


def test_base64_has_the_same_bits(client: httpx.Client) -> None:
    (floats,) = vectors(post(client, "héllo"))
    (text,) = vectors(post(client, "héllo", encoding_format="base64"))
    assert list(struct.unpack("<3f", base64.b64decode(text))) == floats


def test_the_official_client(served: tuple[Running, RunningServer]) -> None:
    with served[1].openai() as client:
        answer = client.embeddings.create(model="tiny", input=["a", "b"], dimensions=2)
        legible = client.embeddings.create(model="tiny", input="a", encoding_format="float")
    assert [entry.embedding for entry in answer.data] == [unit(97, 1), unit(98, 1)]
    assert answer.data[0].embedding != legible.data[0].embedding
    assert answer.usage.total_tokens == 2
    assert isinstance(client, OpenAI)


async def test_more_inputs_than_the_queue_holds(served: tuple[Running, RunningServer]) -> None:
    running, server = served
    with server.client() as client:
        texts = [f"text number {index}" for index in range(300)]
        reply = post(client, texts, normalize=False)
        assert [vector[2] for vector in vectors(reply)] == [len(text) - 1 for text in texts]
        assert reply.json()["usage"]["prompt_tokens"] == sum(map(len, texts))
    await running.until_idle()
    assert running.metrics.counters["vllm:prompt_tokens_total"] >= sum(map(len, texts))


SIZE = "allowed: 1 to 3, this model's size."
PROMPT = "a string, a list of strings, a list of token ids, or a list of lists of token ids"


@pytest.mark.parametrize(
    ("given", "fields", "message", "param"),
    [
        (None, {}, f"input is null; allowed: {PROMPT}.", "input"),
        ([], {}, f"input is []; allowed: {PROMPT}.", "input"),
        ("", {}, "input is ''; allowed: a text that is not empty.", "input"),
        (["a", ""], {}, "input[1] is ''; allowed: a text that is not empty.", "input[1]"),
        ([1, "a"], {}, "input[1] is 'a'; allowed: a token id (0 or more).", "input[1]"),
        ([999], {}, "input is 999; allowed: token ids of this model, 0 to 257.", "input"),
        (
            ["a"] * 2049,
            {},
            "input has 2049 texts or lists; allowed: at most 2048. Send several requests.",
            "input",
        ),
        (
            "x" * 600,
            {},
            "This model's maximum context length is 512 tokens. The prompt has 600 tokens. Shorten "
            "the prompt. Or set truncate_prompt_tokens (1 to 511) to keep the end of it.",
            "input",
        ),
        (
            "a",
            {"dimensions": 0},
            f"dimensions is 0; {SIZE}",
            "dimensions",
        ),
        (
            "a",
            {"dimensions": 4},
            f"dimensions is 4; {SIZE}",
            "dimensions",
        ),
        (
            "a",
            {"encoding_format": "int8"},
            "encoding_format is 'int8'; allowed: float or base64.",
            "encoding_format",
        ),
        (
            "a",
            {"pooling": "max"},
            "pooling is 'max'; allowed: last, mean, or cls of an encoder.",
            "pooling",
        ),
        (
            "a",
            {"pooling": "cls"},
            "pooling is 'cls'; allowed: last or mean, of this model.",
            "pooling",
        ),
        (
            "a",
            {"truncation_side": "right"},
            "truncation_side is 'right'; allowed: left, of this model.",
            "truncation_side",
        ),
        (
            "a",
            {"truncate_prompt_tokens": -2},
            "truncate_prompt_tokens is -2; allowed: 1 to 511 tokens, or -1 for all that fit.",
            "truncate_prompt_tokens",
        ),
        (
            "a",
            {"embed_dtype": "float16"},
            "embed_dtype is not supported: numbers are 32-bit floats. Leave it out.",
            "embed_dtype",
        ),
    ],
)
def test_bad_input(
    client: httpx.Client, given: object, fields: dict[str, Any], message: str, param: str
) -> None:
    reply = post(client, given, **fields)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["message"], reply.json()["error"]["param"]) == (message, param)


def test_a_backend_without_vectors_is_a_fault_that_says_so() -> None:
    with run_server(FakeBackend(vector=None)) as server, server.client() as client:
        reply = post(client, "a")
    assert reply.status_code == 500
    assert "gave no vector" in reply.json()["error"]["message"]


def test_vectors_count_as_input_alone(served: tuple[Running, RunningServer]) -> None:
    limits = {"input_tokens_per_minute": 100, "output_tokens_per_minute": 10}
    with limited(served[0].backend, **limits) as serving:  # type: ignore[arg-type]
        reply = serving.post(PATH, input=["abc", "de"])
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-ratelimit-remaining-input-tokens"] == "95"
    assert reply.headers["x-ratelimit-remaining-output-tokens"] == "10"


def test_invocations_take_an_input(client: httpx.Client) -> None:
    reply = client.post("/invocations", json={"model": "tiny", "input": "ab"})
    assert vectors(reply) == [unit(98, 1, 1)]
