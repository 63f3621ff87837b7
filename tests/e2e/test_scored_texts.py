"""Texts scored over `/v1/completions`, as lm-evaluation-harness does it with `local-completions`.

Its requests, and how it reads what comes back: the server's tokenizer, prompts as token ids, one
token generated and left out, a text judged by the sum of what its tokens are worth.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from served_model import ServedModel

CONTEXT = "The capital of France is"
CONTINUATIONS = (" Paris", " Berlin", " a banana")
SCORED = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}

Score = tuple[float, bool]


@pytest.fixture(scope="module")
def client(served: ServedModel) -> Any:
    with served.client() as client:
        yield client


def encode(client: httpx.Client, text: str) -> list[int]:
    answer = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False})
    tokens: list[int] = answer.json()["tokens"]
    return tokens


def complete(client: httpx.Client, served: ServedModel, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"model": served.model} | SCORED | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def read_scores(answer: dict[str, Any], context_lengths: list[int], num_new: int) -> list[Score]:
    """The sum of a continuation's log-probabilities, and whether each was the largest there."""
    scores = []
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    for choice, start in zip(choices, context_lengths, strict=True):
        logprobs = choice["logprobs"]
        end = len(logprobs["tokens"]) - num_new
        values = logprobs["token_logprobs"][start:end]
        tops = logprobs["top_logprobs"][start:end]
        largest = [max(top.values()) for top in tops]
        scores.append((sum(values), values == largest))
    return scores


def test_the_server_has_the_tokenizer_that_is_looked_for(client: httpx.Client) -> None:
    info = client.get("/tokenizer_info").json()
    # The end of a text is asked for as a text, and encoded by the server.
    assert encode(client, info["eos_token"])[0] in info["eos_token_ids"]
    assert client.post("/detokenize", json={"tokens": encode(client, CONTEXT)}).json() == {
        "prompt": CONTEXT
    }


def test_continuations_are_compared(client: httpx.Client, served: ServedModel) -> None:
    texts = [CONTEXT + continuation for continuation in CONTINUATIONS]
    token_ids = [encode(client, text) for text in texts]
    lengths = [len(encode(client, CONTEXT))] * len(texts)
    of_ids = complete(client, served, prompt=token_ids)
    scores = read_scores(of_ids, lengths, num_new=1)
    assert max(scores) == scores[0]
    assert [is_greedy for _, is_greedy in scores] == [True, False, False]
    # Texts are the same prompts, one alone too.
    assert read_scores(complete(client, served, prompt=texts), lengths, num_new=1) == scores
    alone = [complete(client, served, prompt=token_ids[i]) for i in range(len(texts))]
    assert [read_scores(each, lengths[:1], num_new=1)[0] for each in alone] == scores
    # Without the token that nobody wants.
    unanswered = complete(client, served, prompt=token_ids, max_tokens=0)
    assert read_scores(unanswered, lengths, num_new=0) == scores
    assert unanswered["usage"]["completion_tokens"] == 0
    assert unanswered["usage"]["prompt_tokens"] == sum(map(len, token_ids))


def test_a_text_is_worth_what_it_was_when_it_was_written(
    client: httpx.Client, served: ServedModel
) -> None:
    body = {"prompt": CONTEXT, "max_tokens": 6, "echo": False, "return_token_ids": True}
    (written,) = complete(client, served, **body)["choices"]
    prompt = encode(client, CONTEXT)
    scored = complete(client, served, prompt=[*prompt, *written["token_ids"]], max_tokens=0)
    logprobs = scored["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][len(prompt) :] == written["logprobs"]["token_logprobs"]
    assert logprobs["tokens"][len(prompt) :] == written["logprobs"]["tokens"]
    assert read_scores(scored, [len(prompt)], num_new=0)[0][1]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_the_form_of_an_echo(client: httpx.Client, served: ServedModel, max_tokens: int) -> None:
    (choice,) = complete(client, served, prompt=CONTEXT, max_tokens=max_tokens)["choices"]
    logprobs = choice["logprobs"]
    tokens, tops = logprobs["tokens"], logprobs["top_logprobs"]
    assert choice["text"] == "".join(tokens)
    assert choice["text"].startswith(CONTEXT)
    assert (choice["text"] == CONTEXT) == (max_tokens == 0)
    assert choice["finish_reason"] == "length"
    assert choice["stop_reason"] is None
    assert (logprobs["token_logprobs"][0], tops[0]) == (None, None)
    offsets = zip(logprobs["text_offset"], tokens, strict=True)
    assert all(choice["text"].startswith(token, at) for at, token in offsets)
    assert logprobs["text_offset"][:2] == [0, len(tokens[0])]
    for token, value, top in zip(tokens[1:], logprobs["token_logprobs"][1:], tops[1:], strict=True):
        # The likeliest one, and the one that stands there.
        assert top[token] == value
        assert len(top) <= 2


def test_what_is_streamed_is_the_same(client: httpx.Client, served: ServedModel) -> None:
    body = {"prompt": [CONTEXT, "1, 2,"], "max_tokens": 0, "logprobs": 2}
    whole = complete(client, served, **body)["choices"]
    with served.openai() as official:
        chunks = official.completions.create(model=served.model, **(SCORED | body), stream=True)
        streamed: dict[int, dict[str, Any]] = {0: {"text": ""}, 1: {"text": ""}}
        for chunk in chunks:
            (choice,) = chunk.choices
            found = streamed[choice.index]
            found["text"] += choice.text
            if choice.logprobs is not None:
                assert "logprobs" not in found
                found["logprobs"] = choice.logprobs.model_dump()
            found["finish_reason"] = choice.finish_reason
    wanted = ("text", "logprobs", "finish_reason")
    assert streamed == {i: {name: whole[i][name] for name in wanted} for i in (0, 1)}


def test_prompts_are_scored_without_an_echo_too(client: httpx.Client, served: ServedModel) -> None:
    body = {"prompt": CONTEXT, "max_tokens": 0, "echo": False, "logprobs": None}
    (choice,) = complete(client, served, **body, prompt_logprobs=0, receipt=True)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("", None)
    assert choice["prompt_logprobs"][0] is None
    assert [len(entry) for entry in choice["prompt_logprobs"][1:]] == [1] * (
        len(encode(client, CONTEXT)) - 1
    )
