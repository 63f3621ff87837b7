"""Keys and usage with a real model: the command line makes a key, official clients use it."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest
from programs import eventually, headrace
from served_model import serve

PROMPT = "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen," * 4


def totals(database: str) -> dict[str, int]:
    done = headrace("usage", "--by", "tenant", "--format", "json", HEADRACE_DATABASE=database)
    assert done.code == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["tenant"] == "acme"
    return dict(row)


def test_a_key_and_its_usage(gemma_path: Path, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    made = headrace("keys", "create", "ci", "--tenant", "acme", HEADRACE_DATABASE=database)
    assert made.code == 0, made.stderr
    key = made.stdout.strip()
    with serve(
        gemma_path, tmp_path, "--require-key", api_key=key, HEADRACE_DATABASE=database
    ) as server:
        stranger = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.completions.create(model=server.model, prompt=PROMPT)
        client = server.openai()
        seen = []
        for _ in range(2):
            whole = client.completions.create(model=server.model, prompt=PROMPT, max_tokens=5)
            seen.append(whole.usage)
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
            max_tokens=2000,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as left:
            next(iter(left))
        eventually(lambda: totals(database)["requests"] == 4, "four rows are written")
        found = totals(database)
        assert found["errors"] <= 1
        assert headrace("keys", "revoke", "ci", HEADRACE_DATABASE=database).code == 0
        eventually(lambda: is_refused(client, server.model), "the revoked key is refused")
    spent = totals(database)
    whole_output = sum(usage.completion_tokens for usage in seen)
    assert spent["input_tokens"] == 4 * seen[0].prompt_tokens
    assert whole_output < spent["output_tokens"] < whole_output + 2000
    assert seen[1].prompt_tokens_details.cached_tokens <= spent["cached_input_tokens"]


def is_refused(client: openai.OpenAI, model: str) -> bool:
    try:
        client.models.retrieve(model)
    except openai.AuthenticationError:
        return True
    return False


def test_a_server_that_can_be_reached_by_others(gemma_path: Path, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    options = ("--host", "0.0.0.0")  # noqa: S104 - what is tested
    refused = headrace(
        "serve", gemma_path, *options, "--require-key", "--port", "0", HEADRACE_DATABASE=database
    )
    assert refused.code == 2
    assert "headrace keys create NAME" in refused.stderr
    with serve(gemma_path, tmp_path, *options, HEADRACE_DATABASE=database) as server:
        warning = "warning: 0.0.0.0 can be reached from other machines and there is no API key"
        assert warning in server.program.stderr
        client = server.openai()
        assert client.models.retrieve(server.model).id == server.model
        assert headrace("keys", "create", "first", HEADRACE_DATABASE=database).code == 0
        eventually(lambda: is_refused(client, server.model), "the first key closes the server")
