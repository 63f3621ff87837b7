"""`truncate_prompt_tokens` over the engine: what is kept, what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from fakes.running_engine import MODEL, running_engine
from fakes.served_app import FixedMetrics
from headrace.core.config import ServerConfig
from headrace.server.app import HeadraceApp
from headrace.server.services import Services

MAX_MODEL_LEN = 100
LONG = "0123456789" * 30
CUT = "x-headrace-truncated-tokens"


@asynccontextmanager
async def serving(config: ServerConfig) -> AsyncIterator[httpx.AsyncClient]:
    async with running_engine(max_model_len=MAX_MODEL_LEN) as running:
        app = HeadraceApp(Services(running.backend, config, FixedMetrics(), "9.9"))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            yield client


def post(
    path: str, body: Mapping[str, Any], default_max_tokens: int | None = None
) -> httpx.Response:
    async def run() -> httpx.Response:
        # A heartbeat would send the head before the cut is known, on a machine that stands still.
        config = ServerConfig(default_max_tokens=default_max_tokens, heartbeat_s=600)
        async with serving(config) as client:
            return await client.post(path, json={"model": MODEL, "ignore_eos": True} | dict(body))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("fields", "num_kept"),
    [
        ({"truncate_prompt_tokens": 7, "max_tokens": 5}, 7),
        ({"truncate_prompt_tokens": -1, "max_tokens": 5}, 95),
        ({"truncate_prompt_tokens": -1, "max_tokens": 0, "echo": True}, 99),
        # The route's own length, 16.
        ({"truncate_prompt_tokens": -1}, 84),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_the_end_of_a_prompt_is_kept_and_the_rest_counted(
    fields: dict[str, Any], num_kept: int, is_stream: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if is_stream else {}
    body = {"prompt": LONG, "stream": is_stream, "return_token_ids": True} | fields | options
    answer = post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers[CUT] == str(len(LONG) - num_kept)
    assert f'"prompt_tokens":{num_kept},' in answer.text
    shown = ",".join(map(str, LONG[-num_kept:].encode()))
    assert f'"prompt_token_ids":[{shown}]' in answer.text


def test_several_prompts_and_what_fits_anyway() -> None:
    body = {"truncate_prompt_tokens": -1, "max_tokens": 5}
    answer = post("/v1/completions", body | {"prompt": [LONG, "short", LONG]})
    assert answer.headers[CUT] == str(2 * (len(LONG) - 95))
    assert answer.json()["usage"]["prompt_tokens"] == 95 + 5 + 95
    assert CUT not in post("/v1/completions", body | {"prompt": "short"}).headers


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/responses", {"input": LONG, "store": False}),
    ],
)
def test_without_a_length_a_long_chat_is_refused(path: str, content: dict[str, Any]) -> None:
    body = content | {"truncate_prompt_tokens": -1}
    error = post(path, body).json()["error"]
    assert error["param"] == "truncate_prompt_tokens"
    assert "allowed: -1 together with max_" in error["message"]
    cut = post(path, body, default_max_tokens=8)
    assert cut.status_code == 200, cut.text
    # "user:" and a line break are tokens of the prompt too.
    assert cut.headers[CUT] == str(len(LONG) + 6 - (MAX_MODEL_LEN - 8))
    # An upper bound takes no more than half of the context.
    half = post(path, body, default_max_tokens=5000)
    assert half.headers[CUT] == str(len(LONG) + 6 - MAX_MODEL_LEN // 2)


def test_a_text_for_a_vector_is_cut_too() -> None:
    answer = post("/v1/embeddings", {"input": LONG, "truncate_prompt_tokens": -1})
    assert answer.json()["usage"]["prompt_tokens"] == MAX_MODEL_LEN - 1


@pytest.mark.parametrize("wrong", [0, -2, 100, 1.5])
def test_other_numbers_are_refused(wrong: float) -> None:
    body = {"prompt": LONG, "truncate_prompt_tokens": wrong, "max_tokens": 5}
    answer = post("/v1/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "truncate_prompt_tokens"
