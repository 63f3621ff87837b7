"""Stored requests of a server that is gone, run again by an engine of the command."""

from __future__ import annotations

import re
from pathlib import Path

from programs import Result, eventually, headrace
from served_model import ServedModel, serve

from fakes.random_adapter import write_random_adapter
from fakes.random_model import write_random_model

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


def test_an_adapter_named_by_a_receipt(tmp_path: Path) -> None:
    """It is needed again to say the same, and another one under its name is told apart."""
    model = write_random_model(tmp_path / "model", 2)
    used, other = (
        write_random_adapter(tmp_path / name, seed, 2)
        for seed, name in enumerate(("used", "other"))
    )
    store = {
        "HEADRACE_DATABASE": f"sqlite:///{tmp_path / 'calls.db'}",
        "HEADRACE_STORE_REQUESTS": "full",
        "HEADRACE_MEMORY": "400MiB",
    }

    def reproduce(*words: str | Path) -> Result:
        return headrace("reproduce", TEXT, *words, **store)

    with serve(model, tmp_path, "--lora", f"style={used}", **store) as server:
        with server.client() as client:
            reply = client.post(
                "/v1/completions",
                json={"model": "style", "prompt": "A river", "max_tokens": 12, "ignore_eos": True},
                headers={"X-Request-Id": TEXT},
            )
        assert reply.status_code == 200, reply.text
        name = "headrace:requests_stored_total"
        eventually(lambda: server.metric(name) == 1, "the request is stored")
    digest = reply.headers["x-headrace-adapter-sha256"]

    same = reproduce("--model", model, "--lora", f"style={used}")
    assert (same.code, same.stdout) == (0, "bit-identical: all 12 tokens of 1 answer\n"), (
        same.stderr
    )
    for words, now in ((("--lora", f"style={other}"), '"'), ((), "null")):
        without = reproduce("--model", model, *words)
        assert without.code == 3, without.stderr
        assert f'receipt: model adapter_sha256: was "{digest}", is {now}' in without.stdout
    nameless = reproduce("--lora", f"style={used}")
    assert nameless.code == 2 and "--model" in nameless.stderr
