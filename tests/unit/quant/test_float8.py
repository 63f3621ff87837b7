"""Floats of 8 bits against torch's, code by code, and matrices of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.quant import float8
from headrace.quant.format import F8_E4M3
from headrace.quant.quantize import quantize


def torch_codes(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def test_every_code_stands_for_what_torch_says() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    np.testing.assert_array_equal(float8.VALUES, codes.view(torch.float8_e4m3fn).float().numpy())


def test_rounding_is_to_the_nearest_ties_to_even() -> None:
    """All codes come back; so do the middles between two, a little less and a little more."""
    values = float8.VALUES[np.isfinite(float8.VALUES)]
    np.testing.assert_array_equal(float8.encode(values), torch_codes(values))
    sizes = np.unique(np.abs(values))
    middles = (sizes[1:] + sizes[:-1]) / 2
    x = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, 500)])
    x = np.concatenate([x, -x]).astype(np.float32)
    np.testing.assert_array_equal(float8.encode(x), torch_codes(x))


def test_random_floats_of_all_sizes() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(20000) * 2.0 ** rng.integers(-14, 8, 20000)).astype(np.float32)
    x = x[np.abs(x) < 448]
    np.testing.assert_array_equal(float8.encode(x), torch_codes(x))


def test_what_is_too_large_is_the_largest_and_no_number_stays_none() -> None:
    x = np.array([449, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    found = float8.VALUES[float8.encode(x)]
    np.testing.assert_array_equal(found, np.float32([448, 448, -448, 448, -448, np.nan]))


def test_a_matrix_has_a_scale_per_row() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6, 40)).astype(np.float32) * 10.0 ** np.arange(-3, 3)[:, None]
    x[2] = 0
    tensor = quantize(x.astype(np.float32), "f8_e4m3")
    assert (tensor.format, tensor.shape, tensor.nbytes) == (F8_E4M3, (6, 40), 6 * 44)
    found = tensor.dequantize()
    assert (
        np.abs(found - x) <= np.abs(x) / 16 + np.abs(x).max(axis=1, keepdims=True) / 2**17
    ).all()
    np.testing.assert_array_equal(found[2], 0)
    order = np.array([5, 0, 2])
    np.testing.assert_array_equal(tensor.take_rows(order).dequantize(), found[order])
    np.testing.assert_array_equal(tensor.rows(1, 4).dequantize(), found[1:4])
    np.testing.assert_array_equal(tensor.columns(8, 24).dequantize(), found[:, 8:24])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantize(np.array([[1, value]], np.float32), "f8_e4m3")
