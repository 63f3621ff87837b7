"""The official `openai` client against a served FakeBackend: sync, async, streamed, whole."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai import AsyncOpenAI

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.errors import CapacityError, EngineDied
from headrace.core.usage import Usage

TEXT = "Hello, wörld 🌊!"
HI = [{"role": "user", "content": "hi"}]


def test_chat_whole(server: RunningServer) -> None:
    with server.openai() as client:
        answer = client.chat.completions.create(model="tiny", messages=HI, temperature=0, seed=3)
    choice = answer.choices[0]
    assert choice.message.content == TEXT
    assert (choice.message.role, choice.message.refusal) == ("assistant", None)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    assert answer.service_tier is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 5, 7)
    sampling = server.backend.requests[0].sampling
    assert (sampling.temperature, sampling.seed, sampling.max_tokens) == (0, 3, None)


def test_usage_has_every_detail() -> None:
    with run_server(FakeBackend(num_cached_tokens=1)) as server, server.openai() as client:
        usage = client.chat.completions.create(model="tiny", messages=HI).usage
    assert usage.prompt_tokens_details.model_dump() == {
        "cached_tokens": 1,
        "cache_write_tokens": 0,
        "audio_tokens": 0,
        "text_tokens": 2,
        "image_tokens": 0,
    }
    assert usage.completion_tokens_details.model_dump() == {
        "reasoning_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
        "audio_tokens": 0,
        "text_tokens": 5,
    }


def test_a_prediction_and_what_came_of_it() -> None:
    guesses = Usage(accepted_draft_tokens=3, rejected_draft_tokens=4)
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    with run_server(FakeBackend(guesses=guesses)) as server, server.openai() as client:
        for prediction in (
            {"type": "content", "content": "a b"},
            {"type": "content", "content": parts},
        ):
            usage = client.chat.completions.create(
                model="tiny", messages=HI, prediction=prediction
            ).usage
            details = usage.completion_tokens_details
            assert details.accepted_prediction_tokens == 3
            assert details.rejected_prediction_tokens == 4
            assert (usage.completion_tokens, usage.total_tokens) == (5, 7)
        alone = client.chat.completions.create(model="tiny", messages=HI).usage
        assert alone.completion_tokens_details.accepted_prediction_tokens == 0
        assert [each.prediction for each in server.backend.requests] == ["a b", "a b", None]


def test_chat_stream_joins_to_the_whole_answer(server: RunningServer) -> None:
    with server.openai() as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=HI, stream=True, stream_options={"include_usage": True}
            )
        )
    assert len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == TEXT
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert [reason for reason in reasons if reason] == ["stop"]
    assert reasons[-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 7
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_answers_stream_apart() -> None:
    backend = FakeBackend(per_answer=lambda index, text: f"{index}{text}")
    with run_server(backend) as server, server.openai() as client:
        whole = client.chat.completions.create(model="tiny", messages=HI, n=3)
        joined = ["", "", ""]
        roles, reasons = [], []
        for chunk in client.chat.completions.create(model="tiny", messages=HI, n=3, stream=True):
            assert chunk.usage is None
            choice = chunk.choices[0]
            joined[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role else []
            reasons += [choice.index] if choice.finish_reason else []
    assert joined == [choice.message.content for choice in whole.choices]
    assert len(set(joined)) == 3
    assert roles == reasons == [0, 1, 2]


def test_logprobs_streamed_equal_whole(server: RunningServer) -> None:
    with server.openai() as client:
        ask = {"model": "tiny", "messages": HI, "logprobs": True, "top_logprobs": 2}
        whole = client.chat.completions.create(**ask).choices[0].logprobs.content
        streamed = [
            entry
            for chunk in client.chat.completions.create(**ask, stream=True)
            if chunk.choices[0].logprobs
            for entry in chunk.choices[0].logprobs.content
        ]
        bare = client.chat.completions.create(model="tiny", messages=HI, logprobs=True)
    assert streamed == whole
    assert [entry.token for entry in whole] == ["Hello", ",", " wörld", "", " 🌊!"]
    assert bytes(whole[2].bytes).decode() == " wörld"
    assert [len(entry.top_logprobs) for entry in whole] == [2] * 5
    assert [top.token for top in whole[0].top_logprobs] == ["Hello", "~1"]
    assert [entry.top_logprobs for entry in bare.choices[0].logprobs.content] == [[]] * 5


def test_completions_whole_and_streamed(server: RunningServer) -> None:
    with server.openai() as client:
        ask = {"model": "tiny", "prompt": ["one", [116, 119]], "n": 2, "echo": True, "logprobs": 1}
        whole = client.completions.create(**ask)
        joined = [""] * 4
        tokens: list[list[str]] = [[], [], [], []]
        for chunk in client.completions.create(**ask, stream=True):
            choice = chunk.choices[0]
            joined[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens if choice.logprobs else []
    assert whole.id.startswith("cmpl-")
    assert whole.object == "text_completion"
    assert [c.text for c in whole.choices] == ["one" + TEXT] * 2 + ["tw" + TEXT] * 2 == joined
    assert [c.index for c in whole.choices] == [0, 1, 2, 3]
    first = whole.choices[0].logprobs
    assert first.tokens == ["o", "n", "e", "Hello", ",", " wörld", "", " 🌊!"] == tokens[0]
    assert first.token_logprobs == [None, *[-0.5] * 7]
    assert first.top_logprobs[0] is None
    assert first.text_offset == [0, 1, 2, 3, 8, 9, 15, 15]
    assert whole.usage.prompt_tokens == 5
    assert whole.usage.completion_tokens == 20
    assert server.backend.requests[0].sampling.max_tokens is None
    assert server.backend.requests[0].default_max_tokens == 16


def test_completions_stream_usage_sums_prompts(server: RunningServer) -> None:
    with server.openai() as client:
        chunks = list(
            client.completions.create(
                model="tiny",
                prompt=["a", "bc"],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 3
    assert chunks[-1].usage.completion_tokens == 10
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_async_client_runs_requests_side_by_side(server: RunningServer) -> None:
    client = AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)

    async def ask() -> str:
        text = ""
        stream = await client.chat.completions.create(model="tiny", messages=HI, stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async with client:
        whole = await client.chat.completions.create(model="tiny", messages=HI)
        texts = await asyncio.gather(*(ask() for _ in range(20)))
    assert whole.choices[0].message.content == TEXT
    assert texts == [TEXT] * 20


def test_models(server: RunningServer) -> None:
    with server.openai() as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        model = client.models.retrieve("tiny")
    assert (model.object, model.created, model.owned_by) == ("model", 1_700_000_000, "headrace")
    assert model.max_model_len == 1000
    assert (model.root, model.parent, model.permission) == ("org/tiny", None, [])


def test_errors_become_the_clients_exceptions(server: RunningServer) -> None:
    with server.openai() as client:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="tiny", messages=HI, temperature=3)
        assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
        assert bad.value.request_id.startswith("req_")
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="huge", messages=HI)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("org/other")


def test_full_queue_is_a_rate_limit_error() -> None:
    async def refuse(_: object) -> None:
        raise CapacityError("The queue is full.", 2.5)

    with run_server(FakeBackend(admission=refuse)) as server, server.openai() as client:
        for is_streamed in (False, True):
            with pytest.raises(openai.RateLimitError) as full:
                client.chat.completions.create(model="tiny", messages=HI, stream=is_streamed)
            assert full.value.code == "slow_down"
            assert full.value.type == "rate_limit_error"
            assert full.value.response.headers["retry-after"] == "3"
            assert full.value.response.headers["retry-after-ms"] == "2500"


def test_error_after_the_first_byte_reaches_the_client() -> None:
    async def die(_: object, step: int) -> None:
        if step == 2:
            raise EngineDied("The engine ended.")

    with run_server(FakeBackend(before_step=die)) as server, server.openai() as client:
        texts = []
        with pytest.raises(openai.APIError, match="The engine ended"):
            for chunk in client.chat.completions.create(model="tiny", messages=HI, stream=True):
                texts.append(chunk.choices[0].delta.content)
        assert texts == ["", "Hello", ","]
        with pytest.raises(openai.InternalServerError) as dead:
            client.chat.completions.create(model="tiny", messages=HI)
        assert dead.value.status_code == 503
        assert int(dead.value.response.headers["retry-after"]) >= 1


def test_with_raw_response_shows_warnings(server: RunningServer) -> None:
    with server.openai() as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=HI, extra_body={"top_k": 5, "wat": 1, "x\ny": 2}, store=True
        )
    assert raw.headers["x-headrace-warnings"] == "wat,x?y,store"
    assert server.backend.requests[0].sampling.top_k == 5


def test_of_two_lengths_the_one_without_effect_is_named(server: RunningServer) -> None:
    with server.openai() as client:
        for old, warning in ((9, "max_tokens"), (3, None)):
            raw = client.chat.completions.with_raw_response.create(
                model="tiny", messages=HI, max_tokens=old, max_completion_tokens=3
            )
            assert raw.headers.get("x-headrace-warnings") == warning
            assert server.backend.requests[-1].sampling.max_tokens == 3
