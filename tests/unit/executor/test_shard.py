"""Parts of matrices by rank, and which models cannot be divided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.ranks import run_ranks
from headrace.core.errors import ConfigError
from headrace.executor.load import ModelTensors, read_config, row_formats
from headrace.executor.shard import RowFormat, Shard, check_division, divide, inner_unit
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.weight_reader import open_weights
from oracle.tiny_models import build, case, save


def matrix(rows: int, columns: int, name: str = "f32") -> QuantTensor:
    floats = np.random.default_rng(4).standard_normal((rows, columns), dtype=np.float32)
    tensor = QuantTensor.from_array(floats)
    return tensor if name == "f32" else quantize(tensor.dequantize(), name)


@pytest.mark.parametrize("name", ["f32", "q8_0", "q4_0", "q4_k", "q6_k", "f8_e4m3"])
def test_parts_side_by_side_are_the_whole(name: str) -> None:
    whole = matrix(6, 1024, name)
    shards = [Shard(rank, 2) for rank in range(2)]
    rows = [shard.part(whole, "out").dequantize() for shard in shards]
    columns = [shard.part(whole, "in").dequantize() for shard in shards]
    np.testing.assert_array_equal(np.concatenate(rows), whole.dequantize())
    np.testing.assert_array_equal(np.hstack(columns), whole.dequantize())


def test_a_bias_is_divided_as_the_rows_of_its_matrix() -> None:
    bias = QuantTensor.from_array(np.arange(6, dtype=np.float32))
    assert Shard(1, 3).part(bias, "out").dequantize().tolist() == [2, 3]
    assert Shard().part(bias, "out") is bias


@pytest.mark.parametrize("name", ["f32", "q8_0", "q4_k", "f8_e4m3"])
def test_a_vocabulary_that_does_not_divide_is_filled_up(name: str) -> None:
    """With rows of zeros, of which no logit is left."""
    head = matrix(5, 256, name)
    parts = [Shard(rank, 3).vocabulary(head) for rank in range(3)]
    assert [part.shape for part in parts] == [(2, 256)] * 3
    assert not parts[2].dequantize()[1].any()

    def gather(ops: ReferenceOps, rank: int) -> NDArray[np.float32]:
        own = np.ones((2, 256), np.float32) @ parts[rank].dequantize().T
        return ops.all_gather(own, 5)

    for found in run_ranks(3, gather, np.float32):
        np.testing.assert_allclose(found, np.ones((2, 256)) @ head.dequantize().T, atol=1e-3)


def test_columns_that_cut_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match="block of 32"):
        matrix(2, 64, "q8_0").columns(0, 16)
    with pytest.raises(ValueError, match="64 columns"):
        matrix(2, 64).columns(0, 65)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> ModelTensors:
    folder: Path = save(build(case("llama")), tmp_path_factory.mktemp("model"))
    reader = open_weights(folder)
    return ModelTensors.open(reader, read_config(model_class(reader.architecture), reader))


@pytest.fixture(scope="module")
def config(tensors: ModelTensors) -> ModelConfig:
    return tensors.config


def test_the_numbers_of_a_rank(config: ModelConfig, tensors: ModelTensors) -> None:
    check_division(config, row_formats(tensors), 2)
    half = divide(config, Shard(1, 2))
    assert half.attention[0].num_heads == 2
    assert half.attention[0].num_kv_heads == 1
    assert half.intermediate_size == 96
    assert (half.hidden_size, half.vocab_size) == (config.hidden_size, config.vocab_size)
    assert divide(config, Shard()) is config


def test_a_feed_forward_need_not_come_in_equal_parts(config: ModelConfig) -> None:
    """Five units of 16: two for rank 0, three for rank 1."""
    uneven = replace(config, intermediate_size=80)
    check_division(uneven, [], 2)
    assert [divide(uneven, Shard(rank, 2)).intermediate_size for rank in range(2)] == [32, 48]
    gate = matrix(80, 3)
    rows = [Shard(rank, 2).part(gate, "out", is_inner=True).dequantize() for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(rows), gate.dequantize())


def test_heads_that_cannot_be_shared(config: ModelConfig) -> None:
    with pytest.raises(
        ConfigError,
        match=r"tensor_parallel_size is 4; allowed: 1, 2 with this model\. It has 2 KV heads",
    ):
        check_division(config, [], 4)
    with pytest.raises(ConfigError, match="It has 4 query heads, which 3 ranks"):
        check_division(config, [], 3)


@pytest.mark.parametrize("size", [100, 16])
def test_a_feed_forward_that_does_not_come_apart(config: ModelConfig, size: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"feed-forward of {size} col.*2 or more whole units of 16"
    ):
        check_division(replace(config, intermediate_size=size), [], 2)


def test_blocks_that_ranks_would_cut(config: ModelConfig, tensors: ModelTensors) -> None:
    rows = row_formats(tensors)
    assert RowFormat("layers.2.down", 192, FORMATS["f32"], is_inner=True) in rows
    assert len(rows) == 6
    stored = [replace(row, num_columns=256, format=FORMATS["q4_k"]) for row in rows[1:]]
    wide = replace(config, intermediate_size=768)
    assert inner_unit(stored) == 256
    with pytest.raises(
        ConfigError, match=r"allowed: 1 with.*layers\.1\.o is.*q4_k, in blocks of 256.*q8_0"
    ):
        check_division(wide, stored, 2)
    check_division(wide, [row for row in stored if row.is_inner], 2)
