"""A decoder that makes vectors, as Qwen3-Embedding is published, against transformers.

Its folder was saved without the head, so no name begins with `model.`; the tokenizer puts an end
after every text, whose state is the vector; questions get an instruction, documents none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, processors

from fakes.served_app import run_server
from fakes.small_vocabularies import byte_level
from headrace.core.errors import MissingTensor
from headrace.embedder import Embedder
from headrace.launch.backends import open_engine
from headrace.llm import config_for
from headrace.weights.weight_reader import open_weights
from oracle.tiny_encoders import save_sentence_parts
from oracle.tiny_models import build, case

INSTRUCTION = "Instruct: Given a question, retrieve passages that answer it\nQuery:"
TEXTS = ["The quick brown fox", "it's we'll they're", "def add(first, second):", "d"]
FAR = {"reference": 1e-9, "cpu": 1e-4}
"""Cosines: float32 sums in numpy; weights in the kernels' own precision."""
SCORE_ERROR = 1e-3
"""Of served cosines: weights as above, keys and values in the cache are bf16."""


def tokenizer() -> Tokenizer:
    _, made = byte_level("qwen2", vocab_size=300)
    end = ("</s>", made.token_to_id("</s>"))
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[end])
    return made


def write(folder: Path, is_tied: bool = True) -> torch.nn.Module:
    """The folder; and the model without its head."""
    tiny = case("qwen3")
    changes = {**tiny.changes, "tie_word_embeddings": is_tied}
    body: torch.nn.Module = build(replace(tiny, changes=changes)).model
    body.save_pretrained(folder)  # type: ignore[operator]
    tokenizer().save(str(folder / "tokenizer.json"))
    save_sentence_parts(folder, "pooling_mode_lasttoken", max_seq_length=256)
    prompts = {"prompts": {"query": INSTRUCTION, "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return body


@torch.no_grad()
def expected(body: torch.nn.Module, texts: list[str]) -> np.ndarray:
    rows = []
    for text in texts:
        ids = tokenizer().encode(text).ids
        assert ids[-1] == tokenizer().token_to_id("</s>")
        rows.append(body(torch.tensor([ids])).last_hidden_state[0, -1].double())
    return torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()


@pytest.mark.parametrize("device", FAR)
def test_vectors_are_those_of_transformers(tmp_path: Path, device: str) -> None:
    body = write(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as stored:
        assert "embed_tokens.weight" in stored.keys()  # noqa: SIM118 - not a dict
    with Embedder(tmp_path, num_threads=1, device=device, max_model_len=256) as embedder:
        found = {
            "": embedder.embed(TEXTS),
            INSTRUCTION: embedder.embed(TEXTS, prompt_name="query"),
            "document": embedder.embed(TEXTS, prompt_name="document"),
        }
    if device == "reference":  # numpy's sums depend on its batch
        np.testing.assert_allclose(found["document"], found[""], atol=1e-6)
    else:
        assert np.array_equal(found["document"], found[""])
    for prompt in ("", INSTRUCTION):
        wanted = expected(body, [prompt + text for text in TEXTS])
        lengths = np.linalg.norm(found[prompt].astype(np.float64), axis=1)
        cosines = (found[prompt].astype(np.float64) * wanted).sum(1) / lengths
        assert (1 - cosines).max() < FAR[device]
        np.testing.assert_allclose(lengths, 1, atol=1e-6)  # numbers of float32


@contextmanager
def served(folder: Path) -> Iterator[httpx.Client]:
    """The folder behind the routes."""
    # Faster tiers round attention to bf16.
    options = {"num_threads": 1, "max_model_len": 256, "isa": "generic"}
    config = config_for(folder, None, options)
    engine = open_engine(str(folder), config)
    with run_server(engine) as server:  # type: ignore[arg-type]

        def wait(work: Coroutine[Any, Any, None]) -> None:
            asyncio.run_coroutine_threadsafe(work, server.loop).result(60)

        wait(engine.start())
        try:
            with server.client() as client:
                yield client
        finally:
            wait(engine.stop())


def test_it_ranks_by_cosine_with_its_own_prompts(tmp_path: Path) -> None:
    body = write(tmp_path)
    query, *documents = TEXTS
    wanted = expected(body, [INSTRUCTION + query, *documents])
    scores = wanted[1:] @ wanted[0]
    plain = expected(body, TEXTS)
    with served(tmp_path) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        ask = {"model": model, "query": query, "documents": documents}
        results = client.post("/rerank", json=ask).json()["results"]
        pairs = {"model": model, "text_1": query, "text_2": documents}
        found = client.post("/score", json=pairs).json()["data"]
        refused = [client.post("/rerank", json=ask | {"truncate_prompt_tokens": 9})]
        text = {"model": model, "input": query, "truncate_prompt_tokens": 2}
        refused.append(client.post("/v1/embeddings", json=text | {"prompt_name": "query"}))
        assert client.post("/v1/embeddings", json=text).json()["usage"]["prompt_tokens"] == 2
    got = [entry["relevance_score"] for entry in sorted(results, key=lambda e: e["index"])]
    np.testing.assert_allclose(got, scores, atol=SCORE_ERROR)
    pair_scores = plain[1:] @ plain[0]
    assert np.abs(scores - pair_scores).max() > 16 * SCORE_ERROR  # a prompt shows
    found_scores = [entry["score"] for entry in found]
    np.testing.assert_allclose(found_scores, pair_scores, atol=SCORE_ERROR)
    for reply in refused:
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "truncate_prompt_tokens"


def test_names_are_those_of_a_model_with_a_head(tmp_path: Path) -> None:
    write(tmp_path)
    names = open_weights(tmp_path).names()
    assert all(name.startswith("model.") for name in names)


def test_a_head_that_is_nowhere_is_named(tmp_path: Path) -> None:
    write(tmp_path, is_tied=False)
    with pytest.raises(MissingTensor, match=r"no tensor 'lm_head\.weight'"):
        Embedder(tmp_path, num_threads=1, max_model_len=256)
