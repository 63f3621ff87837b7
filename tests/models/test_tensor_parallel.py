"""A model divided over ranks gives the logits of the model in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import LlamaConfig

from fakes.ranks import run_ranks
from headrace.executor.shard import Shard
from headrace.ops.protocol import KVCacheDtype, Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from oracle.driver import Driver, load_model
from oracle.gguf_export import export
from oracle.tiny_models import CASES, SIZES, TinyModel, build, save, token_ids

LOGITS = 1e-6
"""Over their deviation: float32 from sums in float64 in another order."""
NAMES = ("llama-tied", "qwen2", "qwen3", "gemma3-small", "gemma2", "phi3-longrope", "qwen2-moe")
"""A tied head; biases and key shifts; norms of heads; windows, post norms, caps; a part of each
head turned and files with fused parts; experts and a shared one."""
MODELS = (
    *(tiny for tiny in CASES if tiny.name in NAMES),
    TinyModel("llama-odd-vocabulary", LlamaConfig, {"vocab_size": SIZES["vocab_size"] + 1}),
    TinyModel("llama-odd-feed-forward", LlamaConfig, {"intermediate_size": 80}),
)


def logits(
    path: Path, ops: Ops, shard: Shard, kv_cache_dtype: KVCacheDtype = "bf16"
) -> NDArray[np.float32]:
    """Of a prompt in two chunks, then of a token alone."""
    model = load_model(path, ops, shard=shard)
    driver = Driver(model, num_blocks=4, kv_cache_dtype=kv_cache_dtype)
    return driver.run(token_ids(9), [5, 3, 1])


def check(
    path: Path, num_ranks: int = 2, kv_cache_dtype: KVCacheDtype = "bf16", unit: int = 16
) -> None:
    whole = logits(path, ReferenceOps(np.float64), Shard(), kv_cache_dtype)
    ranks = run_ranks(
        num_ranks,
        lambda ops, rank: logits(path, ops, Shard(rank, num_ranks, unit), kv_cache_dtype),
    )
    assert ranks[0].shape == whole.shape
    assert np.abs(ranks[0] - whole).max() < LOGITS * whole.std()
    for other in ranks[1:]:
        np.testing.assert_array_equal(other, ranks[0])


@pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: tiny.name)
def test_two_ranks(tiny: TinyModel, tmp_path: Path) -> None:
    check(save(build(tiny), tmp_path))


def test_four_ranks_with_an_int8_cache(tmp_path: Path) -> None:
    tiny = TinyModel("many-heads", LlamaConfig, {"num_key_value_heads": 4})
    check(save(build(tiny), tmp_path), 4, "int8")


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_quantized_matrices_are_divided_between_their_blocks(name: str, tmp_path: Path) -> None:
    model = build(TinyModel("llama", LlamaConfig))
    formats = {"blk.": name, "output.": name}
    check(export(model, tmp_path / "model.gguf", formats), unit=32)


def test_large_blocks_of_a_feed_forward_are_shared_out(tmp_path: Path) -> None:
    """Three of 256 columns: one for rank 0, two for rank 1."""
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 1}
    model = build(TinyModel("llama", LlamaConfig, sizes))
    formats = {"ffn_": "q4_k", "attn_": "q8_0", "output.": "q6_k"}
    check(export(model, tmp_path / "model.gguf", formats), unit=256)
