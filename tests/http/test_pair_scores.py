"""Pairs of texts scored and ranked, texts classified, over HTTP, by real tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from fakes.encoders import classifier_folder, encoder_folder, served_encoder
from fakes.served_app import RunningServer
from headrace.core.scores import to_scores
from headrace.embedder import Embedder
from oracle.tiny_encoders import make_classifier, make_tokenizer

QUERY = "the cat sat"
DOCUMENTS = ["rain on the moon", "the cats", "a mat. the cat sat on the mat", "moon"]
Served = tuple[RunningServer, BertForSequenceClassification]


def serve(tmp_path_factory: pytest.TempPathFactory, num_labels: int) -> Iterator[Served]:
    folder = classifier_folder(tmp_path_factory.mktemp("classifier"), num_labels)
    with served_encoder(folder) as server:
        yield server, make_classifier(num_labels)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serve(tmp_path_factory, 1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serve(tmp_path_factory, 3)


def post(server: RunningServer, path: str, **body: Any) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={"model": "tiny", **body})


@torch.no_grad()
def logits(model: BertForSequenceClassification, *texts: str) -> np.ndarray:
    tokenizer = make_tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = tokenizer.encode(*texts)
    inputs = torch.tensor([encoded.ids]), None, torch.tensor([encoded.type_ids])
    return model(*inputs).logits[0].numpy()  # type: ignore[no-any-return]


def expected_scores(model: BertForSequenceClassification) -> list[float]:
    outputs = (logits(model, QUERY, document) for document in DOCUMENTS)
    return [float(torch.sigmoid(torch.tensor(output))[0]) for output in outputs]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_scores_are_those_of_transformers(reranker: Served, path: str) -> None:
    server, model = reranker
    reply = post(server, path, text_1=QUERY, text_2=DOCUMENTS, wat=1)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2, 3]
    got = [entry["score"] for entry in body["data"]]
    np.testing.assert_allclose(got, expected_scores(model), atol=1e-5)
    assert body["usage"]["total_tokens"] > 20 and reply.headers["x-headrace-warnings"] == "wat"
    pairs = post(server, path, queries=[QUERY] * 4, documents=DOCUMENTS).json()
    assert [entry["score"] for entry in pairs["data"]] == got
    alone = post(server, path, text_1=QUERY, text_2=DOCUMENTS[2]).json()
    assert alone["data"][0]["score"] == got[2]
    raw = post(server, path, text_1=QUERY, text_2=DOCUMENTS[2], use_activation=False).json()
    assert raw["data"][0]["score"] == pytest.approx(logits(model, QUERY, DOCUMENTS[2])[0], abs=1e-5)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_best_document_comes_first(reranker: Served, path: str) -> None:
    server, model = reranker
    scores = expected_scores(model)
    order = sorted(range(4), key=lambda index: -scores[index])
    results = post(server, path, query=QUERY, documents=DOCUMENTS).json()["results"]
    assert [entry["index"] for entry in results] == order
    assert [entry["document"]["text"] for entry in results] == [DOCUMENTS[index] for index in order]
    objects = [{"text": document, "id": 1} for document in DOCUMENTS]
    few = post(server, path, query=QUERY, documents=objects, top_n=2, return_documents=False).json()
    assert few["results"] == [
        {"index": entry["index"], "relevance_score": entry["relevance_score"]}
        for entry in results[:2]
    ]


def test_classes_are_those_of_transformers(classifier: Served) -> None:
    server, model = classifier
    body = post(server, "/classify", input=DOCUMENTS).json()
    for entry, document in zip(body["data"], DOCUMENTS, strict=True):
        expected = torch.softmax(torch.tensor(logits(model, document)), 0).numpy()
        np.testing.assert_allclose(entry["probs"], expected, atol=1e-5)
        assert entry["label"] == f"LABEL_{int(expected.argmax())}" and entry["num_classes"] == 3


def test_a_pair_is_cut_only_when_asked(reranker: Served) -> None:
    server, _ = reranker
    long = "rain " * 60
    error = post(server, "/score", text_1=QUERY, text_2=long).json()["error"]
    assert error["code"] == "context_length_exceeded" and "48 tokens" in error["message"]
    assert error["param"] == "text_2"
    error = post(server, "/rerank", query=QUERY, documents=["cats", long]).json()["error"]
    assert error["param"] == "documents[1]"
    cut = post(server, "/score", text_1=QUERY, text_2=long, truncate_prompt_tokens=-1).json()
    assert cut["usage"]["total_tokens"] == 48


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ("/score", {"text_1": "a"}, "text_2"),
        ("/score", {"text_1": "a", "queries": "a", "text_2": "b"}, "text_1"),
        ("/score", {"text_1": "a", "text_2": ["b", 5]}, "text_2[1]"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/score", {"text_1": "a", "text_2": ["b"] * 2049}, "text_2"),
        ("/rerank", {"query": "a", "documents": []}, "documents"),
        ("/rerank", {"query": "a", "documents": ["b", {"body": "c"}]}, "documents[1]"),
        ("/rerank", {"query": "", "documents": ["b"]}, "query"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ("/rerank", {"query": "a", "documents": ["b"], "rank_fields": ["x"]}, "rank_fields"),
        ("/score", {"text_1": "a", "text_2": "b", "truncation_side": "left"}, "truncation_side"),
        ("/classify", {"input": ""}, "input"),
    ],
)
def test_what_is_wrong_is_named(
    reranker: Served, path: str, body: dict[str, Any], param: str
) -> None:
    reply = post(reranker[0], path, **body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert error["code"] in ("invalid_value", "unsupported_parameter")


def test_models_that_do_not_fit(classifier: Served, reranker: Served) -> None:
    refusals = [
        post(classifier[0], "/score", text_1="a", text_2="b"),
        post(reranker[0], "/v1/embeddings", input="a"),
        post(reranker[0], "/v1/completions", prompt="a"),
    ]
    for reply in refusals:
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (400, "model_not_supported")


def test_an_embedding_model_ranks_by_cosine(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    with Embedder(folder, num_threads=1, encoder_dtype="f32") as embedder:
        plain, *others = embedder.embed([QUERY, *DOCUMENTS])
        query = embedder.embed(QUERY, prompt_name="query")[0]
    with served_encoder(folder) as server:
        results = post(server, "/rerank", query=QUERY, documents=DOCUMENTS).json()["results"]
        got = {entry["index"]: entry["relevance_score"] for entry in results}
        np.testing.assert_allclose([got[i] for i in range(4)], np.stack(others) @ query, atol=1e-6)
        scores = post(server, "/score", text_1=QUERY, text_2=DOCUMENTS).json()["data"]
        same = np.stack(others) @ plain  # one sum in float32, theirs and ours
        np.testing.assert_allclose([entry["score"] for entry in scores], same, atol=1e-6)
        assert post(server, "/classify", input="a").status_code == 400


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_a_ranking_puts_prompts_of_their_own_before_query_and_documents(
    tmp_path: Path, name: str
) -> None:
    """The texts of a score have one role: the prompt that goes before any text, if there is one."""
    folder = encoder_folder(tmp_path)
    prompts = {"query": "the query. ", name: "the mat. ", "any": "rain. "}
    told = {"prompts": prompts, "default_prompt_name": "any"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    with Embedder(folder, num_threads=1, encoder_dtype="f32") as embedder:
        query = embedder.embed(QUERY, prompt_name="query")[0]
        documents = embedder.embed(DOCUMENTS, prompt_name=name)
        plain, *others = embedder.embed([QUERY, *DOCUMENTS])
    with served_encoder(folder) as server:
        results = post(server, "/rerank", query=QUERY, documents=DOCUMENTS).json()["results"]
        scores = post(server, "/score", text_1=QUERY, text_2=DOCUMENTS).json()["data"]
    got = {entry["index"]: entry["relevance_score"] for entry in results}
    # One sum in float32 on either side.
    np.testing.assert_allclose([got[i] for i in range(4)], documents @ query, atol=1e-6)
    same = np.stack(others) @ plain
    np.testing.assert_allclose([entry["score"] for entry in scores], same, atol=1e-6)


def test_classes_in_a_script(tmp_path: Path) -> None:
    with Embedder(classifier_folder(tmp_path, 3), num_threads=1, encoder_dtype="f32") as model:
        raw = model.classify(["rain", ("rain", "moon")], is_raw=True)
        expected = [logits(make_classifier(3), "rain"), logits(make_classifier(3), "rain", "moon")]
        np.testing.assert_allclose(raw, expected, atol=1e-5)
        np.testing.assert_allclose(model.classify("rain").sum(), 1, atol=1e-6)
        assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_what_outputs_mean() -> None:
    assert to_scores([0.0, 0.0], "single_label_classification") == (0.5, 0.5)
    assert to_scores([1000.0, -1000.0], "single_label_classification") == (1.0, 0.0)
    assert to_scores([0.0, -1000.0, 1000.0], "multi_label_classification") == (0.5, 0.0, 1.0)
    assert to_scores([2.5, -1.0], "regression") == to_scores([2.5, -1.0], None) == (2.5, -1.0)
