"""QuantTensor: construction, row selection, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize


def sample(name: str = "q4_k", rows: int = 12) -> QuantTensor:
    weights = np.random.default_rng(0).standard_normal((rows, 512), dtype=np.float32)
    return quantize(weights, name)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_exact_in_every_format(name: str) -> None:
    tensor = sample(name)
    whole = tensor.dequantize()
    order = np.array([11, 0, 0, 7])
    assert np.array_equal(tensor.rows(3, 9).dequantize(), whole[3:9])
    assert np.array_equal(tensor.take_rows(order).dequantize(), whole[order])
    assert np.array_equal(tensor.dequantize_rows(order), whole[order])
    assert tensor.nbytes == 12 * FORMATS[name].row_bytes(512)


def test_a_slice_of_rows_is_a_view_and_taken_rows_are_a_copy() -> None:
    tensor = sample()
    assert np.shares_memory(tensor.rows(2, 5).data, tensor.data)
    assert not np.shares_memory(tensor.take_rows(np.arange(12)).data, tensor.data)


def test_floats_are_wrapped_without_a_copy_of_their_bits() -> None:
    single = np.array([[1.5, -2.25], [0.0, 3e38]], dtype=np.float32)
    bits = (single.view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal(QuantTensor.from_array(single).dequantize(), single)
    assert np.array_equal(
        QuantTensor.from_array(single[:1].astype(np.float16)).dequantize(), single[:1]
    )
    wide = QuantTensor.from_array(bits, "bf16")
    assert wide.format.name == "bf16"
    assert np.array_equal(wide.dequantize().view(np.uint32) >> 16, bits)


def test_a_vector_is_one_row() -> None:
    tensor = QuantTensor.from_array(np.arange(5, dtype=np.float32))
    assert (tensor.shape, tensor.data.shape) == ((5,), (1, 20))
    with pytest.raises(ValueError, match="only a matrix has rows"):
        tensor.rows(0, 1)
    with pytest.raises(ValueError, match="only a matrix has rows"):
        tensor.take_rows(np.array([0]))


def test_three_axes_keep_their_shape() -> None:
    weights = np.arange(2 * 3 * 32, dtype=np.float32).reshape(2, 3, 32)
    tensor = quantize(weights, "q8_0")
    assert tensor.data.shape == (6, 34)
    assert np.array_equal(
        tensor.dequantize(), quantize(weights.reshape(6, 32), "q8_0").dequantize().reshape(2, 3, 32)
    )


def test_no_rows_are_rows_too() -> None:
    empty = sample().rows(4, 4)
    assert empty.dequantize().shape == (0, 512)


@pytest.mark.parametrize("window", [(-1, 3), (5, 4), (0, 13)])
def test_rows_outside_are_refused(window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="of a tensor with 12 rows"):
        sample().rows(*window)
    with pytest.raises(IndexError):
        sample().take_rows(np.array([12]))


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ((), np.zeros((1, 4), np.uint8), "not that of a tensor"),
        ((2, 256), np.zeros((2, 143), np.uint8), r"\(2, 144\)"),
        ((2, 256), np.zeros(288, np.uint8), r"\(2, 144\)"),
        ((2, 256), np.zeros((2, 144), np.int8), "contiguous uint8"),
        ((2, 256), np.zeros((2, 288), np.uint8)[:, ::2], "contiguous uint8"),
        ((2, 255), np.zeros((2, 144), np.uint8), "not a multiple"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    shape: tuple[int, ...], data: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        QuantTensor(FORMATS["q4_k"], shape, data)


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros(4, np.float64), None),
        (np.zeros(4, np.uint16), None),
        (np.zeros(4, np.float32), "bf16"),
        (np.zeros(4, np.float32), "q4_0"),
    ],
)
def test_arrays_that_are_not_stored_floats_are_refused(array: np.ndarray, name: str | None) -> None:
    with pytest.raises(ValueError, match="allowed are float32"):
        QuantTensor.from_array(array, name)
