"""Keys and usage with a real model: the command line makes a key, the official client uses it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from pathlib import Path

import openai
import pytest
import yaml
from programs import eventually, headrace
from served_model import ServedModel, serve

PROMPT = "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen," * 4
NUM_PROMPT_TOKENS = 128
ELSEWHERE = ("--host", "0.0.0.0")  # noqa: S104 - what is tested


def test_from_an_open_server_to_a_revoked_key(gemma_path: Path, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'accounts.db'}"

    def run(*words: str) -> str:
        done = headrace(*words, HEADRACE_DATABASE=database)
        assert done.code == 0, done.stderr
        return done.stdout.strip()

    with serve(gemma_path, tmp_path, *ELSEWHERE, HEADRACE_DATABASE=database) as server:
        warning = "warning: 0.0.0.0 can be reached from other machines and there is no API key"
        assert warning in server.program.stderr
        stranger = server.openai()
        assert stranger.models.retrieve(server.model).id == server.model
        key = run("keys", "create", "ci", "--tenant", "acme")
        eventually(lambda: is_refused(stranger, server), "the first key closes the server")

        with ServedModel(server.program, server.address, server.model, key).openai() as client:
            seen = [ask(client, server) for _ in range(2)]
            stream = client.completions.create(
                model=server.model,
                prompt=PROMPT,
                max_tokens=7,
                stream=True,
                stream_options={"include_usage": True},
            )
            seen += [chunk.usage for chunk in stream if chunk.usage]
            with client.completions.create(
                model=server.model,
                prompt=PROMPT,
                max_tokens=1000,
                stream=True,
                extra_body={"ignore_eos": True},
            ) as left:
                next(iter(left))
            name = "headrace:ledger_rows_total"
            eventually(lambda: server.metric(name) == 4, "four rows are written")
            run("keys", "revoke", "ci")
            eventually(lambda: is_refused(client, server), "the revoked key is refused")

    (spent,) = json.loads(run("usage", "--by", "tenant", "--format", "json"))
    assert (spent["tenant"], spent["requests"]) == ("acme", 4)
    assert spent["errors"] <= 1
    assert spent["input_tokens"] == 4 * seen[0].prompt_tokens
    answered = sum(usage.completion_tokens for usage in seen)
    assert answered < spent["output_tokens"] <= answered + 1000


def ask(client: openai.OpenAI, server: ServedModel) -> openai.types.CompletionUsage:
    answer = client.completions.create(model=server.model, prompt=PROMPT, max_tokens=5)
    assert answer.usage is not None
    return answer.usage


def is_refused(client: openai.OpenAI, server: ServedModel) -> bool:
    try:
        client.models.retrieve(server.model)
    except openai.AuthenticationError:
        return True
    return False


def test_a_server_that_demands_a_key_does_not_start_without(
    gemma_path: Path, tmp_path: Path
) -> None:
    refused = headrace(
        "serve", gemma_path, "--require-key", "--port", "0",
        HEADRACE_DATABASE=f"sqlite:///{tmp_path / 'accounts.db'}",
    )  # fmt: skip
    assert refused.code == 2
    assert "headrace keys create NAME" in refused.stderr


async def test_a_measured_price_adds_up_and_asks_for_no_faster_prompts_than_there_are(
    gemma_path: Path, tmp_path: Path
) -> None:
    """Sixteen at a time, so that a token of an answer is computed beside fifteen others."""
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    settings = {"HEADRACE_DATABASE": database, "HEADRACE_HOME": str(tmp_path)}
    with serve(gemma_path, tmp_path, "--ledger", "on", HEADRACE_DATABASE=database) as server:
        await ask_together(server, 48, 40)
        eventually(lambda: server.metric("headrace:ledger_rows_total") == 48, "rows are written")
        measured = headrace("prices", "measure", server.model, "--usd-per-hour", "1", **settings)
        reached = max([await ask_together(server, 48, 1) for _ in range(2)])
    assert measured.code == 0, measured.stderr
    (machine,) = yaml.safe_load(measured.stdout)["machines"]
    input_s = 48 * NUM_PROMPT_TOKENS / machine["input_tokens_per_s"]
    output_s = 48 * 40 / machine["output_tokens_per_s"]
    (busy_s,) = map(float, re.findall(r"48 calls, ([0-9.]+) s of work", measured.stderr))
    assert input_s + output_s == pytest.approx(busy_s, abs=0.6)
    # Other work of this computer may come in between: prompts beside answers are not faster.
    assert machine["input_tokens_per_s"] < 1.25 * reached


async def ask_together(server: ServedModel, count: int, max_tokens: int) -> float:
    """Prompts that share no beginning, sixteen at a time; their tokens a second, all in all."""
    seats = asyncio.Semaphore(16)

    async def one(client: openai.AsyncOpenAI) -> None:
        async with seats:
            answer = await client.completions.create(
                model=server.model,
                prompt=[random.randrange(1000, 9000) for _ in range(NUM_PROMPT_TOKENS)],
                max_tokens=max_tokens,
                extra_body={"ignore_eos": True, "add_special_tokens": False},
            )
            assert answer.usage is not None
            assert answer.usage.completion_tokens == max_tokens

    async with server.async_openai() as client:
        begin_s = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(count)))
        return count * NUM_PROMPT_TOKENS / (time.perf_counter() - begin_s)
