"""embed from every number format, on every implementation."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Ops
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor


def random_table(rng: np.random.Generator, name: str, num_rows: int, width: int) -> QuantTensor:
    """Blocks of random bytes, with finite scales: every bit pattern of the integers occurs."""
    fmt = FORMATS[name]
    data = rng.integers(0, 256, (num_rows, fmt.row_bytes(width)), dtype=np.uint8)
    if name == "f32":
        data = rng.standard_normal((num_rows, width)).astype(np.float32).view(np.uint8)
    elif name in ("f16", "bf16"):
        data[:, 1::2] = rng.integers(0x30, 0x3F, (num_rows, width), dtype=np.uint8)
    else:
        blocks = data.reshape(num_rows, -1, fmt.block_bytes)
        # Keep the exponents of any half-precision scale away from inf and NaN.
        for high_byte in {1, 3, fmt.block_bytes - 1, fmt.block_bytes - 3}:
            blocks[:, :, high_byte] &= 0x3F
    return QuantTensor(fmt, (num_rows, width), np.ascontiguousarray(data))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_exact(ops: Ops, rng: np.random.Generator, name: str) -> None:
    table = random_table(rng, name, 50, 768)
    token_ids = np.array([0, 49, 7, 7, 31], np.int32)
    result = ops.embed(token_ids, ops.pack_table(table))
    np.testing.assert_array_equal(result, table.dequantize()[token_ids])
    assert result.dtype == np.float32
    assert result.flags.c_contiguous


@pytest.mark.parametrize("num_rows", [0, 1, 100])
def test_scale(ops: Ops, rng: np.random.Generator, num_rows: int) -> None:
    table = random_table(rng, "q8_0", 50, 640)
    token_ids = rng.integers(0, 50, num_rows).astype(np.int32)
    expected = table.dequantize()[token_ids] * np.float32(25.298221)
    np.testing.assert_array_equal(ops.embed(token_ids, ops.pack_table(table), 25.298221), expected)


@pytest.mark.parametrize("token_id", [-1, 50])
def test_token_outside_the_table(ops: Ops, rng: np.random.Generator, token_id: int) -> None:
    table = ops.pack_table(random_table(rng, "f16", 50, 64))
    with pytest.raises(IndexError, match="token id"):
        ops.embed(np.array([3, token_id], np.int32), table)
