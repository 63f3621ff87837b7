"""Layouts, exact integers and dequantization; the gguf package is the oracle."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.quant import gguf_blocks
from headrace.quant.format import FORMATS
from headrace.quant.gguf_pack import pack
from headrace.quant.quant_tensor import QuantTensor

QUANTIZED = [name for name, fmt in FORMATS.items() if fmt.is_quantized]
WIDTH = 1024
# The most a q, scale or minimum of each format can be; with zero, the whole integer contract.
RANGES = {
    # name: group size, zero, q, sc, mn
    "q4_0": (32, 8, (0, 15), None, None),
    "q4_1": (32, 0, (0, 15), None, None),
    "q5_0": (32, 16, (0, 31), None, None),
    "q5_1": (32, 0, (0, 31), None, None),
    "q8_0": (32, 0, (-128, 127), None, None),
    "q2_k": (16, 0, (0, 3), (0, 15), (0, 15)),
    "q3_k": (16, 4, (0, 7), (-32, 31), None),
    "q4_k": (32, 0, (0, 15), (0, 63), (0, 63)),
    "q5_k": (32, 0, (0, 31), (0, 63), (0, 63)),
    "q6_k": (16, 32, (0, 63), (-128, 127), None),
    "iq4_nl": (32, 0, (-127, 113), None, None),
}


def random_tensor(name: str, rows: int = 33, width: int = WIDTH, seed: int = 1) -> QuantTensor:
    """Any bytes at all: about one scale in 16 is inf or nan, as in a damaged file."""
    fmt = FORMATS[name]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, fmt.row_bytes(width)), dtype=np.uint8)
    return QuantTensor(fmt, (rows, width), data)


def oracle(tensor: QuantTensor) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        floats = gguf.quants.dequantize(
            tensor.data, gguf.GGMLQuantizationType(tensor.format.ggml_type)
        )
    return np.asarray(floats, dtype=np.float32)


def is_same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal bit for bit; any nan equals any nan, as its payload depends on the CPU."""
    same = (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
    return bool(same.all())


@pytest.mark.parametrize("name", FORMATS)
def test_dequantization_of_random_blocks_is_ggml_s(name: str) -> None:
    tensor = random_tensor(name)
    ours, theirs = tensor.dequantize(), oracle(tensor)
    assert np.isnan(ours).any(), "the case must hold damaged scales"
    assert np.isfinite(ours).mean() > 0.5, "and mostly sound ones"
    assert is_same_bits(ours, theirs)


@pytest.mark.parametrize("name", FORMATS)
def test_dequantization_crosses_slices(name: str) -> None:
    tensor = random_tensor(name, rows=70, width=2048)  # more weights than one slice holds
    assert is_same_bits(tensor.dequantize(), oracle(tensor))


@pytest.mark.parametrize("name", QUANTIZED)
def test_packing_integers_gives_every_byte_back(name: str) -> None:
    tensor = random_tensor(name)
    assert np.array_equal(pack(tensor.format, tensor.integers()), tensor.data)


@pytest.mark.parametrize("name", QUANTIZED)
def test_integers_keep_their_contract(name: str) -> None:
    tensor = random_tensor(name)
    integers = gguf_blocks.integers(tensor)
    group_size, zero, q_range, sc_range, mn_range = RANGES[name]
    assert (integers.group_size, integers.zero) == (group_size, zero)
    assert integers.q.shape == tensor.shape
    assert integers.d.shape == (33, WIDTH // tensor.format.block_size)
    assert integers.d.dtype == np.float16
    for values, allowed in (
        (integers.q, q_range),
        (integers.sc, sc_range),
        (integers.mn, mn_range),
    ):
        assert (values is None) == (allowed is None)
        if values is not None:
            assert values.dtype == np.int16
            assert (values.min(), values.max()) == allowed  # 33,000 draws reach both ends
    for per_group in (integers.sc, integers.mn):
        assert per_group is None or per_group.shape == (33, WIDTH // group_size)
    assert (integers.dmin is not None) == (integers.mn is not None)
    assert (integers.m is not None) == (name in ("q4_1", "q5_1"))


@pytest.mark.parametrize("name", QUANTIZED)
def test_integers_evaluate_to_the_dequantized_weights(name: str) -> None:
    tensor = random_tensor(name)
    assert is_same_bits(tensor.integers().to_float(), tensor.dequantize())


def test_q4_k_by_hand() -> None:
    """One block written by the layout's letter, read back weight by weight."""
    block = np.zeros(1, dtype=gguf_blocks.BLOCK_DTYPES["q4_k"])
    block["d"], block["dmin"] = 0.5, 0.25
    # Group 0: scale 3, minimum 2. Group 5: scale 0b110101, minimum 0b101010, split in three.
    block["scales"][0, 0] = 3
    block["scales"][0, 4] = 2
    block["scales"][0, 1] = 0b11 << 6
    block["scales"][0, 5] = 0b10 << 6
    block["scales"][0, 9] = 0b1010 << 4 | 0b0101
    block["qs"][0, 0] = 0x7  # weight 0, low nibble
    block["qs"][0, 64 + 1] = 0x9 << 4  # high nibble of the third run: group 5, weight 161
    tensor = QuantTensor(FORMATS["q4_k"], (256,), block.view(np.uint8).reshape(1, -1))
    weights = tensor.dequantize()
    assert weights[0] == 0.5 * 3 * 7 - 0.25 * 2
    assert weights[1] == -0.25 * 2
    assert weights[161] == 0.5 * 0b110101 * 9 - 0.25 * 0b101010
    assert weights[160] == -0.25 * 0b101010


def test_floats_have_no_integers() -> None:
    with pytest.raises(ValueError, match="f16 stores floats"):
        random_tensor("f16").integers()
