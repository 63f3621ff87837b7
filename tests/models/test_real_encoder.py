"""MiniLM from its folder against transformers in float32: what the guide says of its vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from headrace.core.errors import ContextTooLong
from headrace.embedder import Embedder

TEXTS = [
    "The cat sat on the mat.",
    "It rained all day, and nobody went out.",
    "def add(a, b):\n    return a + b",
    "Größe 东京 ñandú: 3.14 € — “quoted”",
    "a",
    " ".join(["The quick brown fox jumps over the lazy dog."] * 20),
]


@torch.no_grad()
def expected(folder: Path) -> np.ndarray:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    rows = []
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        rows.append(model.eval()(**inputs).last_hidden_state[0].mean(0))
    return torch.nn.functional.normalize(torch.stack(rows).double(), dim=1).numpy()


@pytest.mark.parametrize(("dtype", "far"), [("f32", 1e-9), ("bf16", 1e-4), ("q8_0", 1e-3)])
def test_vectors_are_those_of_transformers(minilm_path: Path, dtype: str, far: float) -> None:
    with Embedder(minilm_path, num_threads=2, encoder_dtype=dtype) as embedder:
        vectors = embedder.embed(TEXTS)
        assert embedder.max_model_len == 256 and vectors.shape == (len(TEXTS), 384)
        alone = np.concatenate([embedder.embed(text) for text in TEXTS])
        with pytest.raises(ContextTooLong, match="256 tokens"):
            embedder.embed("word " * 300)
    assert alone.tobytes() == vectors.tobytes()
    cosines = (vectors.astype(np.float64) * expected(minilm_path)).sum(1)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert (1 - cosines / lengths).max() < far
