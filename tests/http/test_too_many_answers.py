"""What never fits into an engine and what only has to wait: the real one, with a small queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from fakes.encoders import encoder_folder, served_encoder
from fakes.running_engine import MODEL, Running, running_engine
from fakes.served_app import run_server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MOST = 5
BODY: dict[str, Any] = {"model": MODEL, "prompt": "abc", "max_tokens": 2}


@pytest_asyncio.fixture(loop_scope="module")
async def running() -> Any:
    async with running_engine(max_num_seqs=2, max_waiting_requests=MOST - 2) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with run_server(running.backend) as server, server.client() as client:  # type: ignore[arg-type]
        yield client


def refusal(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    assert "retry-after" not in answer.headers
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"best_of": MOST + 1}])
def test_n_beyond_the_engine_is_refused_for_good(
    client: httpx.Client, more: dict[str, Any]
) -> None:
    error = refusal(client.post(COMPLETIONS, json=BODY | {"n": MOST + 1} | more))
    assert (error["param"], error["code"]) == ("n", "invalid_value")
    assert error["message"].startswith("n is 6; allowed: at most 5 at a time")
    assert "Send several requests" in error["message"]
    answer = client.post(COMPLETIONS, json=BODY | {"n": MOST})
    assert len(answer.json()["choices"]) == MOST


def test_n_of_a_chat(client: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert refusal(client.post(CHAT, json=body | {"n": MOST + 1}))["param"] == "n"
    assert len(client.post(CHAT, json=body | {"n": MOST}).json()["choices"]) == MOST


def test_prompts_together_beyond_the_engine_are_refused_for_good(
    running: Running, client: httpx.Client
) -> None:
    error = refusal(client.post(COMPLETIONS, json=BODY | {"prompt": ["a", "b", "c"], "n": 2}))
    assert error["param"] == "prompt"
    assert error["message"].startswith("prompt and n (2) ask for 6 answers; allowed: at most 5 at")
    assert not running.runner.steps
    answer = client.post(COMPLETIONS, json=BODY | {"prompt": ["a", "b"], "n": 2})
    assert len(answer.json()["choices"]) == 4


def test_more_texts_than_the_engine_holds_become_vectors_in_turns(client: httpx.Client) -> None:
    texts = [chr(97 + index) for index in range(2 * MOST + 1)]
    answer = client.post("/v1/embeddings", json={"model": MODEL, "input": texts})
    assert [entry["index"] for entry in answer.json()["data"]] == list(range(len(texts)))


def test_more_texts_than_an_encoder_holds_become_vectors_in_turns(tmp_path: Path) -> None:
    texts = ["the cat", "rain", "the moon", "cat cat", "moon"]
    encoder = served_encoder(encoder_folder(tmp_path), max_waiting_requests=2)
    with encoder as server, server.client() as client:
        body = {"model": "tiny", "input": texts}
        together = client.post("/v1/embeddings", json=body).json()["data"]
        for text, entry in zip(texts, together, strict=True):
            alone = client.post("/v1/embeddings", json=body | {"input": text}).json()["data"]
            assert alone[0]["embedding"] == entry["embedding"]
        documents = {"model": "tiny", "query": "cat", "documents": texts}
        assert len(client.post("/rerank", json=documents).json()["results"]) == len(texts)
