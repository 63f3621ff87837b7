"""Stored requests of a server that is gone, run again by an engine of the command."""

from __future__ import annotations

import re
from pathlib import Path

from programs import Result, eventually, headrace
from served_model import ServedModel, serve

CHAT, TEXT, RESPONSE = "chat-of-a-test", "text-of-a-test", "response-of-a-test"
MESSAGES = [{"role": "user", "content": "Invent a name for a river and say why."}]
PROMPTS = ["def add(a, b):", "The quick brown"]


def ask_chat(server: ServedModel) -> None:
    """Sampled without a seed, streamed, and as long as the server lets it be."""
    with server.openai() as client:
        stream = client.chat.completions.create(
            model=server.model,
            messages=MESSAGES,  # type: ignore[arg-type]
            temperature=1.5,
            stream=True,
            extra_headers={"X-Request-Id": CHAT},
            extra_body={"ignore_eos": True},
        )
        assert list(stream)


def ask_text(server: ServedModel) -> None:
    with server.openai() as client:
        answer = client.completions.create(
            model=server.model,
            prompt=PROMPTS,
            n=2,
            max_tokens=12,
            temperature=2,  # at 1 two of a prompt's answers are equal now and then
            extra_body={"ignore_eos": True},
            extra_headers={"X-Request-Id": TEXT},
        )
    assert len({choice.text for choice in answer.choices}) == 4


def ask_responses(server: ServedModel) -> None:
    """The second goes on from the first, which is in the same database."""
    with server.openai() as client:
        first = client.responses.create(model=server.model, input="Name a river.")
        client.responses.create(
            model=server.model,
            input="And another one?",
            previous_response_id=first.id,
            max_output_tokens=12,
            extra_headers={"X-Request-Id": RESPONSE},
        )


def test_requests_are_reproduced_after_a_restart(qwen05_path: Path, tmp_path: Path) -> None:
    store = {
        "HEADRACE_DATABASE": f"sqlite:///{tmp_path / 'calls.db'}",
        "HEADRACE_STORE_REQUESTS": "full",
    }

    def reproduce(*words: str | Path) -> Result:
        return headrace("reproduce", *words, HEADRACE_DATABASE=store["HEADRACE_DATABASE"])

    with serve(qwen05_path, tmp_path, "--default-max-tokens", "24", **store) as server:
        ask_chat(server)
        ask_text(server)
        ask_responses(server)
        name = "headrace:requests_stored_total"
        eventually(lambda: server.metric(name) == 4, "four requests are stored")

    settings = tmp_path / "settings.yaml"
    settings.write_text("server:\n  default_max_tokens: 6\n")
    options = ("--model", qwen05_path, "--config", settings)
    text = reproduce(TEXT, *options)
    assert text.code == 0, text.stderr
    assert text.stdout == "bit-identical: all 48 tokens of 4 answers\n"

    response = reproduce(RESPONSE, *options)
    assert response.code == 0, response.stderr
    assert re.fullmatch(r"bit-identical: all \d+ tokens of 1 answer\n", response.stdout)

    chat = reproduce(CHAT, *options)
    assert chat.code == 3, chat.stderr
    assert chat.stdout.splitlines() == [
        "different: the answer: had 24 tokens and has 6",
        "receipt: max_tokens: was 24, is 6",
    ]
