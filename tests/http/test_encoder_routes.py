"""Vectors over HTTP from a real encoder with tiny random weights."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fakes.encoders import encoder_folder, served_encoder
from fakes.served_app import RunningServer
from headrace.embedder import Embedder

PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Iterator[Embedder]:
    with Embedder(folder, num_threads=1, encoder_dtype="f32") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    with served_encoder(folder, max_waiting_requests=70) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def post(client: httpx.Client, given: object, **fields: Any) -> httpx.Response:
    return client.post(PATH, json={"model": "tiny", "input": given} | fields)


def vectors(reply: httpx.Response) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    return np.array([entry["embedding"] for entry in reply.json()["data"]], np.float32)


def refusal(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


def test_the_whole_answer(client: httpx.Client, embedder: Embedder) -> None:
    reply = post(client, ["the cat", "rain"])
    np.testing.assert_allclose(vectors(reply), embedder.embed(["the cat", "rain"]), atol=1e-7)
    body = reply.json()
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (body["object"], body["model"]) == ("list", "tiny")


def test_forms_of_an_input(client: httpx.Client, embedder: Embedder) -> None:
    ids = list(embedder._encoder.encoder.encode(["the cat"])[0].ids)  # type: ignore[union-attr]
    for given in ("the cat", ["the cat"], ids, [ids]):
        np.testing.assert_allclose(
            vectors(post(client, given)), embedder.embed("the cat"), atol=1e-7
        )


def test_what_makes_a_vector(client: httpx.Client, embedder: Embedder) -> None:
    for pooling in ("mean", "cls", "last"):
        expected = embedder.embed("rain", pooling=pooling, is_normalized=False)
        got = vectors(post(client, "rain", pooling=pooling, normalize=False))
        np.testing.assert_array_equal(got, expected)
    short = vectors(post(client, "rain", dimensions=5))
    np.testing.assert_allclose(short, embedder.embed("rain", dimensions=5), atol=1e-7)
    asked = vectors(post(client, "the cat", prompt_name="query"))
    np.testing.assert_allclose(asked, embedder.embed("the query. the cat"), atol=1e-7)


def test_base64(client: httpx.Client, embedder: Embedder) -> None:
    (entry,) = post(client, "rain", encoding_format="base64").json()["data"]
    got = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
    np.testing.assert_allclose(got, embedder.embed("rain")[0], atol=1e-7)


def test_bits_do_not_depend_on_the_call(client: httpx.Client) -> None:
    texts = [f"the cat {index} sat on the mat"[: 9 + index % 20] for index in range(130)]
    together = vectors(post(client, texts))
    for index in (0, 64, 129):
        assert vectors(post(client, texts[index]))[0].tobytes() == together[index].tobytes()


def test_nothing_is_cut_unasked(client: httpx.Client, embedder: Embedder) -> None:
    text = "rain " * 50
    error = refusal(post(client, ["cat", text]))
    assert error["code"] == "context_length_exceeded" and error["param"] == "input[1]"
    assert "40 tokens" in error["message"] and "52 tokens" in error["message"]
    assert refusal(post(client, text))["param"] == "input"
    cut = post(client, text, truncate_prompt_tokens=-1)
    assert cut.json()["usage"]["prompt_tokens"] == 40
    np.testing.assert_allclose(vectors(cut), embedder.embed("rain " * 38), atol=1e-7)
    assert post(client, text, truncate_prompt_tokens=5).json()["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncate_prompt_tokens": 41}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncation_side": "left"}, "truncation_side"),
        ({"dimensions": 65}, "dimensions"),
        ({"pooling": "max"}, "pooling"),
        ({"prompt_name": "passage"}, "prompt_name"),
        ({"input": [5, 100000]}, "input"),
        ({"input": [[5], [5, 100000]]}, "input[1]"),
        ({"input": [5, 6], "prompt_name": "query"}, "prompt_name"),
        ({"input": "a b c", "truncate_prompt_tokens": 1}, "truncate_prompt_tokens"),
        ({"input": []}, "input"),
    ],
)
def test_what_cannot_be_is_named(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    assert refusal(post(client, fields.pop("input", "rain"), **fields))["param"] == param


def test_tokens_of_messages_are_refused_in_words_that_say_what_is_read(
    client: httpx.Client,
) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    refused = client.post("/tokenize", json={"messages": messages})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == ("messages", "unsupported_parameter")
    assert error["message"] == (
        "This model is an encoder: it reads a text, not messages. Send the text as prompt."
    )


def test_an_encoder_does_not_answer(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for path, body in (
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/completions", {"prompt": "hi"}),
    ):
        error = refusal(client.post(path, json={"model": "tiny", **body}))
        assert error["code"] == "model_not_supported" and "/v1/embeddings" in error["message"]


def test_its_tokenizer(client: httpx.Client) -> None:
    reply = client.post("/tokenize", json={"model": "tiny", "prompt": "the cat"}).json()
    assert reply["count"] == 4 and reply["max_model_len"] == 40
    text = client.post("/detokenize", json={"model": "tiny", "tokens": reply["tokens"]}).json()
    assert "the cat" in text["prompt"]


def test_more_inputs_than_may_wait(client: httpx.Client) -> None:
    """A call's inputs come in windows, so that one call cannot fill the queue."""
    assert len(vectors(post(client, ["cat"] * 300))) == 300
