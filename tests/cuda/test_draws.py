"""The sampling kernel chooses the reference's token in every row, whatever the filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.core.errors import InvalidLogits
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.reference.reference_ops import ReferenceOps
from kernels.cases import SAMPLE_SETTINGS, SampleSettings, logit_rows, sample_inputs


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("cpu", torch.float32)


@pytest.mark.parametrize("kind", ["normal", "ties", "banned"])
def test_the_token_of_the_reference(ops: CudaOps, kind: str) -> None:
    rng = np.random.default_rng(list(kind.encode()))
    settings = list(SAMPLE_SETTINGS)
    logits = logit_rows(rng, len(settings), 700, kind)
    seeds = rng.integers(0, 2**64, len(settings), dtype=np.uint64)
    inputs = sample_inputs(settings, seeds, rng.integers(0, 10**6, len(settings)))
    expected = ReferenceOps(np.float32).sample(logits, inputs)
    before = logits.copy()
    np.testing.assert_array_equal(ops.sample(torch.from_numpy(logits), inputs), expected)
    np.testing.assert_array_equal(logits, before)


def test_more_tokens_than_one_pass_reads(ops: CudaOps) -> None:
    rng = np.random.default_rng(3)
    settings = [SampleSettings("plain"), SampleSettings("top-k-50", temperature=0.7, top_k=50)]
    logits = logit_rows(rng, 2, 9001, "normal")
    inputs = sample_inputs(settings, np.array([5, 6], np.uint64), np.array([1, 2]))
    expected = ReferenceOps(np.float32).sample(logits, inputs)
    np.testing.assert_array_equal(ops.sample(torch.from_numpy(logits), inputs), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_logits_are_named(ops: CudaOps, value: float, temperature: float) -> None:
    logits = logit_rows(np.random.default_rng(1), 3, 100, "normal")
    logits[1, 60] = value
    settings = [SampleSettings("row", temperature=temperature)] * 3
    with pytest.raises(InvalidLogits) as caught:
        ops.sample(torch.from_numpy(logits), sample_inputs(settings, np.zeros(3), np.zeros(3)))
    assert caught.value.rows == (1,)
