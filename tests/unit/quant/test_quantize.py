"""Quantizers: ggml's bits where the gguf package has them, an error bound everywhere."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.quant.format import FORMATS
from headrace.quant.quantize import quantize

# Root mean square error over that of the weights, for normal weights: what the step of each format
# gives, measured here and rounded up by about a tenth.
RELATIVE_RMS = {
    "f32": 0.0, "f16": 0.00025, "bf16": 0.0019, "q4_0": 0.096, "q4_1": 0.087, "q5_0": 0.048,
    "q5_1": 0.043, "q8_0": 0.006, "q2_k": 0.37, "q3_k": 0.175, "q4_k": 0.087, "q5_k": 0.043,
    "q6_k": 0.021, "iq4_nl": 0.09,
}  # fmt: skip
AS_GGML = ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
DENORMAL_ROW = 5


def weights(rows: int = 32, width: int = 1024) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((rows, width), dtype=np.float32)


def ugly_weights() -> NDArray[np.float32]:
    """Zeros, outliers, one sign, ties, denormals."""
    x = weights()
    x[0] = 0
    x[1, ::7] *= 100
    x[2], x[3] = abs(x[2]), -abs(x[3])
    x[4] = np.round(x[4] * 2) / 2
    x[DENORMAL_ROW] *= 1e-39
    x[6, :512] = 0
    return x


@pytest.mark.parametrize("name", AS_GGML)
def test_bits_are_those_of_ggml_s_reference(name: str) -> None:
    x = ugly_weights()
    x[DENORMAL_ROW] = 0  # ggml casts an inf to an integer there, which is undefined
    with np.errstate(all="ignore"):
        theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name.upper()])
    assert np.array_equal(quantize(x, name).data, theirs.view(np.uint8).reshape(len(x), -1))


@pytest.mark.parametrize("name", FORMATS)
def test_the_error_is_what_the_step_gives(name: str) -> None:
    x = weights()
    error = quantize(x, name).dequantize() - x
    assert np.sqrt((error**2).mean() / (x**2).mean()) <= RELATIVE_RMS[name]


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros_and_ugly_rows_stay_finite(name: str) -> None:
    x = ugly_weights()
    y = quantize(x, name).dequantize()
    assert np.array_equal(y[0], x[0])
    assert np.isfinite(y).all()
    # Within a group the error is at most the group's range; a sign or a scale gone wrong is more.
    assert (np.abs(y - x).max(axis=1) <= np.ptp(x, axis=1)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    x = weights(1)
    x[0, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        quantize(x, "q4_k")


@pytest.mark.parametrize("name", ["q8_0", "q4_1", "q4_k", "q6_k"])
def test_weights_beyond_the_scale_are_refused(name: str) -> None:
    x = weights(1) * np.float32(1e30)
    with pytest.raises(ValueError, match="too large"):
        quantize(x, name)


def test_unknown_formats_and_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="'q9_9'; allowed: f32, f16"):
        quantize(weights(), "q9_9")
    with pytest.raises(ValueError, match="row of 100 weights"):
        quantize(weights(width=100), "q4_0")
