"""How much memory a short text takes of a large cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.ops.cpu.cpu_ops import CpuOps
from headrace.ops.protocol import AttentionSpec

STATM = Path("/proc/self/statm")
PAGE_BYTES = 4096
MIB = 2**20
NUM_LAYERS = 16


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * PAGE_BYTES


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_one_token_does_not_touch_a_huge_page_of_each_layer() -> None:
    """2 MB of keys and of values in every layer would have to be cleared before it is stored."""
    ops = CpuOps(num_threads=1)
    spec = AttentionSpec(14, 2, 64, scale=0.125)
    cache = ops.allocate_kv([spec] * NUM_LAYERS, num_blocks=1024, block_size=32)
    assert cache.num_bytes == NUM_LAYERS * 16 * MIB
    qkv = np.ones((1, spec.qkv_width), np.float32)
    slot = np.zeros(1, np.int32)
    before = resident_bytes()
    for layer in cache.layers:
        ops.store_kv(qkv, layer, slot, spec)
    assert resident_bytes() - before < NUM_LAYERS * MIB
