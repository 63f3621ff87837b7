"""Error feedback: products change less than with searched scales, in every format, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.quant.error_feedback import ErrorFeedback
from headrace.quant.format import FORMATS
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.scale_search import search

QUANTIZED = [name for name, fmt in FORMATS.items() if fmt.is_quantized]
WIDTH, HIDDEN = 512, 64
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_t(5, (24, WIDTH)).astype(np.float32)
MIX = RNG.standard_normal((HIDDEN, WIDTH))
# Its share of the error of `search` with importance, on inputs the moments never saw: measured
# here (0.10 to 0.24) and rounded up.
SHARE = 0.35


def inputs(num_rows: int) -> NDArray[np.float64]:
    """Columns that depend on each other. Shapes: -> [rows, WIDTH]."""
    noise = RNG.standard_normal((num_rows, WIDTH))
    return RNG.standard_normal((num_rows, HIDDEN)) @ MIX + 0.3 * noise


SEEN, OTHER = inputs(1024), inputs(256)
MOMENTS = SEEN.T @ SEEN / len(SEEN)
FEEDBACK = ErrorFeedback(MOMENTS, len(SEEN))


def lost(tensor: QuantTensor) -> float:
    """Mean square of what products with inputs not seen change by."""
    return float((((tensor.dequantize() - WEIGHTS) @ OTHER.T) ** 2).mean())


@pytest.mark.parametrize("name", QUANTIZED)
def test_products_change_less_on_inputs_that_were_not_seen(name: str) -> None:
    importance = MOMENTS.diagonal().astype(np.float32)
    assert lost(FEEDBACK.round(WEIGHTS, name)) < SHARE * lost(search(WEIGHTS, name, importance))


@pytest.mark.parametrize("name", ["q4_0", "q4_k"])
def test_rows_are_independent_and_runs_equal(name: str) -> None:
    whole = FEEDBACK.round(WEIGHTS, name)
    assert np.array_equal(whole.data, ErrorFeedback(MOMENTS, len(SEEN)).round(WEIGHTS, name).data)
    halves = [FEEDBACK.round(half, name).dequantize() for half in np.split(WEIGHTS, 2)]
    np.testing.assert_allclose(lost(whole), lost(joined(halves)), rtol=1e-3)


def joined(parts: list[NDArray[np.float32]]) -> QuantTensor:
    return QuantTensor.from_array(np.concatenate(parts))


def test_columns_that_do_not_depend_on_each_other_owe_nothing() -> None:
    variances = np.exp(RNG.standard_normal(WIDTH))
    alone = ErrorFeedback(np.diag(variances), 10).round(WEIGHTS, "q4_0")
    assert np.array_equal(alone.data, search(WEIGHTS, "q4_0", variances.astype(np.float32)).data)


def test_columns_and_texts_of_zeros_stay_finite() -> None:
    moments = MOMENTS.copy()
    moments[:, :40] = moments[:40] = 0
    for given in (moments, np.zeros_like(moments)):
        rounded = ErrorFeedback(given, 100).round(WEIGHTS, "q4_k").dequantize()
        assert np.abs(rounded - WEIGHTS).max() < np.ptp(WEIGHTS)


@pytest.mark.parametrize("moments", [np.ones((3, 4)), np.full((WIDTH, WIDTH), np.nan)])
def test_moments_that_are_none_are_refused(moments: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="moments are a square of finite numbers"):
        ErrorFeedback(moments, 100)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 256 weights; moments are of 512"):
        FEEDBACK.round(WEIGHTS[:, :256], "q4_0")
    with pytest.raises(ValueError, match="finite"):
        FEEDBACK.round(np.full_like(WEIGHTS, np.nan), "q4_0")
