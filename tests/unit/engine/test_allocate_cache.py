"""A KV cache that the system refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.core.errors import OutOfMemory
from headrace.engine.started_model import allocate_cache
from headrace.executor.load import read_config
from headrace.executor.memory import Capacity
from headrace.models.registry import model_class
from headrace.ops.table import make_ops
from headrace.weights.weight_reader import open_weights


def test_the_system_gives_no_memory(qwen05_path: Path) -> None:
    reader = open_weights(qwen05_path)
    config = read_config(model_class(reader.architecture), reader)
    ops = make_ops("cpu", num_threads=1)
    num_blocks = (1 << 50) // ops.kv_bytes_per_block(config.attention, 32)  # a PiB
    capacity = Capacity(0, 1 << 50, 0, 0, num_blocks, 32, 4096)
    with pytest.raises(OutOfMemory, match=r"did not give 1024\.0 TiB"):
        allocate_cache(config, ops, capacity)
