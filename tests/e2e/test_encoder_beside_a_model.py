"""`headrace serve` with a language model and an encoder: vectors while an answer is streamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from served_model import serve

from headrace.embedder import Embedder

TEXTS = ["The cat sat on the mat.", "It rained all day.", "A kitten slept on a rug."]


def test_vectors_while_an_answer_is_streamed(
    gemma_path: Path, minilm_path: Path, tmp_path: Path
) -> None:
    options = (str(minilm_path), "--memory", "2GiB", "--max-model-len", "512")
    with Embedder(minilm_path) as embedder:
        expected = embedder.embed(TEXTS, is_normalized=True)
    with serve(gemma_path, tmp_path, *options) as server, server.openai() as client:
        answering, encoder = [model.id for model in client.models.list()]
        asked = {"model": answering, "prompt": "1, 2, 3,", "max_tokens": 48, "temperature": 0}
        alone = client.completions.create(**asked).choices[0].text
        with client.completions.create(**asked, stream=True) as stream:
            said = next(stream).choices[0].text
            found = client.embeddings.create(model=encoder, input=TEXTS, encoding_format="float")
            said += "".join(chunk.choices[0].text for chunk in stream)
        vectors = np.array([entry.embedding for entry in found.data])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        assert said == alone
        with server.client() as http:
            body = {"model": encoder, "query": TEXTS[0], "documents": TEXTS[1:]}
            ranks = http.post("/rerank", json=body).json()["results"]
            metrics = http.get("/metrics").text
        assert [rank["index"] for rank in ranks] == [1, 0]
        tokens = f'vllm:prompt_tokens_total{{engine="0",model_name="{encoder}"}}'
        (counted,) = (line for line in metrics.splitlines() if line.startswith(tokens))
        assert float(counted.rpartition(" ")[2]) > found.usage.prompt_tokens
