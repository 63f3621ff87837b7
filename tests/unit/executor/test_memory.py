"""The byte plan: it keeps its limit, and what it asks for when it refuses is enough."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError, OutOfMemory
from headrace.core.units import parse_bytes
from headrace.executor.memory import (
    FREE_SHARE,
    MAX_LOGIT_ROWS,
    Capacity,
    plan_capacity,
    weights_bytes,
)
from headrace.executor.shard import Shard, divide
from headrace.models.registry import model_class
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.weights.weight_reader import open_weights
from oracle.tiny_models import build, case, save

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(case("qwen2")), tmp_path_factory.mktemp("model"))


def plan(folder: Path, free_bytes: int = 1 << 40, **engine: Any) -> Capacity:
    reader = open_weights(folder)
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    return plan_capacity(
        config, reader, ReferenceOps(np.float32), EngineConfig(**engine), free_bytes
    )


@pytest.mark.parametrize("memory_mib", [200, 300, 1000])
def test_a_limit_is_used_and_kept(folder: Path, memory_mib: int) -> None:
    capacity = plan(folder, memory_bytes=memory_mib * MIB)
    block_bytes = capacity.kv_bytes // capacity.num_blocks
    assert capacity.total_bytes <= memory_mib * MIB < capacity.total_bytes + block_bytes
    assert capacity.num_kv_tokens == capacity.num_blocks * 32
    assert f"{capacity.num_kv_tokens} tokens" in capacity.describe()


def test_what_a_refusal_asks_for_is_enough_and_not_too_much(folder: Path) -> None:
    with pytest.raises(OutOfMemory) as refused:
        plan(folder, memory_bytes=64 * MIB)
    needed = refused.value.needed_bytes
    assert plan(folder, memory_bytes=needed).total_bytes == needed
    with pytest.raises(OutOfMemory):
        plan(folder, memory_bytes=needed - 1)
    hint = re.search(r"--memory (\S+)", refused.value.message)
    assert hint is not None
    assert needed <= parse_bytes(hint[1]) < needed + MIB


def test_free_memory_is_shared_and_a_refusal_says_how_much_must_be_free(folder: Path) -> None:
    small = plan(folder, free_bytes=300 * MIB)
    assert small.total_bytes <= 300 * MIB * FREE_SHARE
    with pytest.raises(OutOfMemory) as refused:
        plan(folder, free_bytes=100 * MIB)
    assert plan(folder, free_bytes=refused.value.needed_bytes).num_blocks > 0


def test_plenty_of_memory_is_not_all_taken(folder: Path) -> None:
    assert plan(folder, free_bytes=1 << 50) == plan(folder, free_bytes=1 << 40)


def test_the_context_is_what_the_cache_holds(folder: Path) -> None:
    assert plan(folder).max_model_len == 256
    assert plan(folder, max_model_len=100).max_model_len == 100
    with pytest.raises(OutOfMemory) as refused:
        plan(folder, memory_bytes=64 * MIB)
    tight = plan(folder, memory_bytes=refused.value.needed_bytes)
    assert tight.max_model_len == (tight.num_blocks - 1) * tight.block_size < 256


def test_a_context_beyond_the_models_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="1 to 256"):
        plan(folder, max_model_len=257)


def test_a_shorter_context_needs_less(folder: Path) -> None:
    with pytest.raises(OutOfMemory) as long:
        plan(folder, memory_bytes=64 * MIB, max_model_len=256)
    with pytest.raises(OutOfMemory) as short:
        plan(folder, memory_bytes=64 * MIB, max_model_len=32)
    assert short.value.needed_bytes < long.value.needed_bytes


def test_weights_are_counted_as_the_device_keeps_them(folder: Path) -> None:
    """The reference computes on float32, or float64, whatever the file holds."""
    half = save(build(case("qwen2"), torch.bfloat16), folder / "half", torch.bfloat16)
    file_bytes = (half / "model.safetensors").stat().st_size
    reader = open_weights(half)
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    for dtype, times in ((np.float32, 2), (np.float64, 4)):
        counted = weights_bytes(config, reader, ReferenceOps(dtype), max_positions=0)
        assert counted == pytest.approx(times * file_bytes, rel=0.02)


def test_a_budget_beyond_what_is_free_is_refused(folder: Path) -> None:
    assert plan(folder, free_bytes=400 * MIB, memory_bytes=400 * MIB).num_blocks > 0
    with pytest.raises(OutOfMemory, match=r"--memory gives 900\.0 GiB, and 400\.0 MiB") as refused:
        plan(folder, free_bytes=400 * MIB, memory_bytes=900 * 1024 * MIB)
    assert refused.value.available_bytes == 400 * MIB


def test_int8_holds_more_tokens_in_the_same_memory(folder: Path) -> None:
    plain, small = (
        plan(folder, memory_bytes=300 * MIB, kv_cache_dtype=dtype) for dtype in ("auto", "int8")
    )
    assert (plain.kv_cache_dtype, small.kv_cache_dtype) == ("bf16", "int8")
    head = 32  # of the tiny model; the reference keeps float32 where the kernels keep bf16
    assert small.num_kv_tokens / plain.num_kv_tokens == pytest.approx(4 * head / (head + 4), 0.01)
    assert "tokens of int8" in small.describe()


def test_rows_of_logits_are_planned_for_scored_prompts_and_guesses(folder: Path) -> None:
    """One request can want a row for each of its tokens, and three arrays of them at a time."""
    one, many = (plan(folder, max_num_seqs=number).scratch_bytes for number in (1, 64))
    assert one == many
    vocab_size = build(case("qwen2")).config.vocab_size
    rows = 3 * MAX_LOGIT_ROWS * vocab_size * 4
    narrow = plan(folder, max_num_seqs=1, max_num_batched_tokens=MAX_LOGIT_ROWS).scratch_bytes
    assert rows < narrow < one


def test_the_plan_says_what_bounds_the_cache(folder: Path) -> None:
    """The default is not all that is free: who has more memory learns how to use it."""
    usual = plan(folder, max_num_seqs=8, max_model_len=128)
    assert usual.num_kv_tokens == 8 * 2048 + 32
    assert "32: 8 requests of 2048 tokens, --memory SIZE gives more)" in usual.describe()
    reader = open_weights(folder)
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    config, ops = replace(config, max_model_len=4096), ReferenceOps(np.float32)
    long = plan_capacity(config, reader, ops, EngineConfig(max_num_seqs=1), 1 << 40)
    assert long.num_kv_tokens == 4096 + 32
    assert "32: one context, --memory SIZE gives more)" in long.describe()
    scarce = plan(folder, free_bytes=int(usual.total_bytes / 0.7) - MIB, max_num_seqs=8)
    assert scarce.num_blocks < usual.num_blocks
    assert "32: what 70% of the free memory leaves)" in scarce.describe()
    limited = plan(folder, memory_bytes=300 * MIB)
    assert "32: what 300.0 MiB leave)" in limited.describe()


@pytest.mark.parametrize("name", ["qwen2", "qwen2-tied"])
def test_a_rank_has_its_part_and_the_whole_embedding(name: str, tmp_path: Path) -> None:
    reader = open_weights(save(build(case(name)), tmp_path))
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    ops = ReferenceOps(np.float32)
    whole, half = (
        weights_bytes(divide(config, Shard(0, ranks)), reader, ops, 0, ranks) for ranks in (1, 2)
    )
    embed = config.vocab_size * config.hidden_size * 4
    matrices = whole - embed if name == "qwen2" else whole  # a tied head is a part of it
    assert half == matrices // 2 + embed


def test_ranks_have_the_blocks_that_the_smallest_has(folder: Path) -> None:
    mine = plan(folder, device="reference", tensor_parallel_size=2)
    agreed = mine.with_blocks(5)
    assert " on each of 2 ranks: weights" in agreed.describe()
    assert "ranks" not in plan(folder).describe()
    assert agreed.num_kv_tokens == 5 * mine.block_size
    assert agreed.kv_bytes * mine.num_blocks == mine.kv_bytes * 5
    assert agreed.max_model_len == 4 * mine.block_size < mine.max_model_len
