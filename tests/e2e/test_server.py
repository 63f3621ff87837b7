"""`headrace serve` with the real model and the openai client, unchanged."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from programs import eventually
from served_model import ServedModel, serve

from fakes.random_model import write_random_model

SUM = [{"role": "user", "content": "What is 2 + 2? Answer with the number only."}]
POEM = [{"role": "user", "content": "Write a poem about rivers."}]
COUNT = "1, 2, 3, 4, 5,"


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content


def test_chat_whole_and_streamed(served: ServedModel) -> None:
    with served.openai() as client:
        whole = client.chat.completions.create(model=served.model, messages=SUM, temperature=0)
        chunks = list(
            client.chat.completions.create(
                model=served.model,
                messages=SUM,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert (text_of(whole), whole.choices[0].finish_reason) == ("4", "stop")
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "4"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 2
    assert whole.usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 20


def test_completions_whole_and_streamed(served: ServedModel) -> None:
    ask = {"model": served.model, "prompt": COUNT, "temperature": 0, "max_tokens": 9}
    with served.openai() as client:
        whole = client.completions.create(**ask)
        streamed = "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True))
    assert whole.choices[0].text == streamed == " 6, 7, 8,"
    assert whole.choices[0].finish_reason == "length"


def test_a_middle_is_filled(served: ServedModel) -> None:
    before, after = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
    ask = {"model": served.model, "temperature": 0, "max_tokens": 12}
    with served.openai() as client:
        whole = client.completions.create(prompt=before, suffix=after, **ask)
        stream = client.completions.create(prompt=before, suffix=after, stream=True, **ask)
        streamed = "".join(chunk.choices[0].text for chunk in stream)
        # As the model's card writes it.
        by_hand = client.completions.create(
            prompt=f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>", **ask
        )
    assert whole.choices[0].text == streamed == by_hand.choices[0].text
    assert whole.choices[0].text.startswith("a + b")
    assert whole.usage.prompt_tokens == by_hand.usage.prompt_tokens


async def test_the_async_client(served: ServedModel) -> None:
    async with served.async_openai() as client:
        whole = await client.chat.completions.create(
            model=served.model, messages=SUM, temperature=0
        )
        stream = await client.completions.create(
            model=served.model, prompt=COUNT, temperature=0, max_tokens=3, stream=True
        )
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert (text_of(whole), streamed) == ("4", " 6,")


def test_a_prompt_again_is_read_from_the_cache(served: ServedModel) -> None:
    prompt = "The rivers of Europe in a list: " + " ".join(f"river {i}," for i in range(60))
    ask = {"model": served.model, "prompt": prompt, "temperature": 0, "max_tokens": 4}
    alone = {"cache_salt": "rivers"}  # other tests' prompts may begin alike
    hits = served.metric("vllm:prefix_cache_hits_total")
    with served.openai() as client:
        first, again = (
            client.completions.create(**ask, logprobs=1, extra_body=alone) for _ in range(2)
        )
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached == first.usage.prompt_tokens - 1
    assert again.choices[0].text == first.choices[0].text
    assert again.choices[0].logprobs == first.choices[0].logprobs
    assert served.metric("vllm:prefix_cache_hits_total") - hits == cached


def test_a_seed_repeats_and_another_differs(served: ServedModel) -> None:
    ask = {"model": served.model, "messages": POEM, "temperature": 1.5, "max_tokens": 8}
    with served.openai() as client:
        texts = [text_of(client.chat.completions.create(**ask, seed=seed)) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_several_answers_and_their_logprobs(served: ServedModel) -> None:
    ask = {
        "model": served.model, "messages": POEM, "temperature": 1.2, "seed": 3, "max_tokens": 5,
        "n": 2, "logprobs": True, "top_logprobs": 3,
    }  # fmt: skip
    with served.openai() as client:
        whole = client.chat.completions.create(**ask)
        texts, entries = ["", ""], [[], []]
        for chunk in client.chat.completions.create(**ask, stream=True):
            choice = chunk.choices[0]
            texts[choice.index] += choice.delta.content or ""
            entries[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert [choice.message.content for choice in whole.choices] == texts
    assert texts[0] != texts[1]
    assert [choice.logprobs.content for choice in whole.choices] == entries
    for answer, text in zip(entries, texts, strict=True):
        assert [len(entry.top_logprobs) for entry in answer] == [3] * 5
        assert "".join(entry.token for entry in answer) == text
        assert all(entry.logprob <= 0 for entry in answer)
    assert whole.usage.completion_tokens == 10


def test_stop_strings_across_tokens(served: ServedModel) -> None:
    with served.openai() as client:
        answer = client.completions.create(
            model=served.model, prompt=COUNT, temperature=0, max_tokens=30, stop=[", 9", "nothing"]
        )
        kept = client.completions.create(
            model=served.model, prompt=COUNT, temperature=0, max_tokens=30, stop=", 9",
            extra_body={"include_stop_str_in_output": True},
        )  # fmt: skip
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" 6, 7, 8", "stop")
    assert kept.choices[0].text == " 6, 7, 8, 9"


async def test_32_at_once_answer_as_each_alone(served: ServedModel) -> None:
    """Equal to the bit: texts and logprobs, greedy and seeded, of different lengths."""
    asks: list[dict[str, Any]] = [
        {
            "model": served.model,
            "prompt": f"Fact number {i} about {'water ' * (i % 7)}:",
            "temperature": 0 if i % 2 else 1.0,
            "seed": i,
            "max_tokens": 4 + i % 3,
            "logprobs": 2,
        }
        for i in range(32)
    ]
    async with served.async_openai() as client:
        together = await asyncio.gather(*(client.completions.create(**ask) for ask in asks))
        alone = [await client.completions.create(**ask) for ask in asks]
    assert [answer.choices for answer in together] == [answer.choices for answer in alone]
    # Too short to share a block of the prefix cache: each was computed twice.
    assert all(answer.usage.prompt_tokens < 32 for answer in alone)
    assert len({answer.choices[0].text for answer in together}) > 16


def raw_stream(served: ServedModel, body: dict[str, Any], receive_bytes: int = 0) -> socket.socket:
    """A connection with a request sent and nothing of the answer read."""
    url = httpx.URL(served.address)
    content = json.dumps({"model": served.model, "stream": True, **body}).encode()
    raw = socket.socket()
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.settimeout(60)
    raw.connect((url.host, url.port))
    raw.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(content) + content
    )
    return raw


LONG = {"prompt": COUNT, "temperature": 0, "max_tokens": 20_000, "ignore_eos": True}


def test_a_client_that_leaves_frees_its_blocks(served: ServedModel) -> None:
    served.wait_until_idle()
    with raw_stream(served, LONG) as raw:
        received = b""
        while received.count(b"data: ") < 3:
            received += raw.recv(4096)
        assert served.metric("vllm:num_requests_running") == 1
        assert served.metric("vllm:kv_cache_usage_perc") > 0
    served.wait_until_idle()
    eventually(lambda: served.metric("vllm:kv_cache_usage_perc") == 0, "every block is free")


def test_a_slow_reader_does_not_hold_up_others(served: ServedModel) -> None:
    with raw_stream(served, LONG, receive_bytes=2048), served.openai() as client:
        eventually(lambda: served.metric("vllm:num_requests_running") == 1, "the long one runs")
        answer = client.chat.completions.create(model=served.model, messages=SUM, temperature=0)
        assert text_of(answer) == "4"
        assert served.metric("vllm:num_requests_running") == 1
    served.wait_until_idle()


def test_too_long_a_prompt(served: ServedModel) -> None:
    with served.openai() as client:
        length = client.models.retrieve(served.model).max_model_len
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model=served.model, prompt=[1] * (length + 1))
    assert refused.value.body == {
        "message": f"This model's maximum context length is {length} tokens. The prompt has "
        f"{length + 1} tokens. Shorten the prompt.",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "context_length_exceeded",
    }


def test_health_version_and_metrics(served: ServedModel) -> None:
    with served.client() as client:
        assert client.get("/health").status_code == 200
        assert set(client.get("/version").json()) >= {"version"}
        text = client.get("/metrics").text
    for name in (
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "num_requests_running",
        "prompt_tokens_total",
        "generation_tokens_total",
        "kv_cache_usage_perc",
    ):
        assert f"vllm:{name}" in text, name


async def test_sigterm_lets_running_answers_finish(tmp_path: Path) -> None:
    """Of a model whose answers are long in tokens and short in time."""
    model = write_random_model(tmp_path / "model")
    ask: dict[str, Any] = {
        "model": "mine", "prompt": COUNT, "max_tokens": 400, "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    with serve(model, tmp_path, "--served-model-name", "mine", "--memory", "400MiB") as server:
        assert server.model == "mine"
        async with server.async_openai() as client, server.async_openai() as late:
            await late.models.list()  # it is connected
            undisturbed = (await client.completions.create(**ask)).choices[0].text
            stream = await client.completions.create(**ask, stream=True)
            text = (await anext(stream)).choices[0].text
            server.program.process.terminate()
            refused = await refusal(late)
            chunks = [chunk.choices[0] async for chunk in stream]
        assert server.program.end() == 0
    text += "".join(choice.text for choice in chunks)
    assert (chunks[-1].finish_reason, text) == ("length", undisturbed)
    assert refused.json()["error"] == {
        "message": "The server is shutting down. Send the request again later.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert refused.headers["retry-after"] == "5"


async def refusal(client: openai.AsyncOpenAI) -> httpx.Response:
    """The first answer that is not a success; the signal takes a moment to arrive."""
    for _ in range(100):
        try:
            await client.completions.create(model="mine", prompt="a", max_tokens=1)
        except openai.APIStatusError as error:
            assert error.status_code == 503
            return error.response
    raise AssertionError("the server took requests after SIGTERM")
