"""adjust_logits and logprobs, on every implementation."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.core.errors import InvalidLogits
from headrace.ops.protocol import Ops
from headrace.ops.reference import sampling
from kernels.cases import LOGPROB_ERROR, SampleSettings, logit_rows, sample_inputs, token_lists

NUM_TOKENS = 1000


def adjusted(ops: Ops, logits: np.ndarray, **lists: object) -> np.ndarray:
    result = logits.copy()
    rows = len(logits)
    settings = [SampleSettings("plain")] * rows
    ops.adjust_logits(result, sample_inputs(settings, np.zeros(rows), np.zeros(rows), **lists))
    return result


def test_nothing_to_do(ops: Ops, rng: np.random.Generator) -> None:
    logits = logit_rows(rng, 3, NUM_TOKENS, "banned")
    np.testing.assert_array_equal(adjusted(ops, logits), logits)


@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 1000])
def test_mask(ops: Ops, rng: np.random.Generator, num_tokens: int) -> None:
    logits = logit_rows(rng, 3, num_tokens, "normal")
    allowed = rng.random((3, num_tokens)) < 0.3
    padded = np.zeros((3, -(-num_tokens // 32) * 32), bool)
    padded[:, :num_tokens] = allowed
    mask = np.packbits(padded, axis=1, bitorder="little").view(np.uint32)
    expected = np.where(allowed, logits, -np.inf)
    np.testing.assert_array_equal(adjusted(ops, logits, token_mask=mask), expected)


def test_bias(ops: Ops, rng: np.random.Generator) -> None:
    logits = logit_rows(rng, 3, NUM_TOKENS, "normal")
    bias = token_lists([{0: 5.0, 999: -100.0}, {}, {7: float("-inf")}])
    expected = logits.copy()
    expected[0, 0] += np.float32(5)
    expected[0, 999] -= np.float32(100)
    expected[2, 7] = -np.inf
    np.testing.assert_array_equal(adjusted(ops, logits, bias=bias), expected)


def test_penalties(ops: Ops, rng: np.random.Generator) -> None:
    logits = logit_rows(rng, 2, NUM_TOKENS, "normal")
    logits[0, :4] = [2.0, -2.0, 0.0, -np.inf]
    result = adjusted(
        ops,
        logits,
        prompt_counts=token_lists([{0: 1, 1: 2, 3: 1, 500: 9}, {4: 1}]),
        output_counts=token_lists([{0: 3, 2: 1, 600: 2}, {}]),
        repetition_penalty=np.array([1.25, 1.0], np.float32),
        frequency_penalty=np.array([0.5, 0.5], np.float32),
        presence_penalty=np.array([0.25, 0.25], np.float32),
    )
    f = np.float32
    expected = logits.copy()
    expected[0, 0] = f(2) / f(1.25) - f(1.5) - f(0.25)  # of prompt and output: penalized once
    expected[0, 1] = f(-2) * f(1.25)
    expected[0, 2] = f(0) - f(0.5) - f(0.25)
    for token_id, count in ((500, 0), (600, 2)):
        x = logits[0, token_id]
        x = x / f(1.25) if x > 0 else x * f(1.25)
        expected[0, token_id] = x - f(0.5) * f(count) - (f(0.25) if count else f(0))
    np.testing.assert_array_equal(result, expected)


def test_mask_and_bias_come_before_penalties(ops: Ops) -> None:
    logits = np.full((1, 40), 1.0, np.float32)
    mask = np.full((1, 2), 0xFFFFFFFF, np.uint32)
    mask[0, 0] = 0xFFFFFFFE
    result = adjusted(
        ops,
        logits,
        token_mask=mask,
        bias=token_lists([{0: 100.0, 1: -3.0}]),
        prompt_counts=token_lists([{0: 1, 1: 1}]),
        repetition_penalty=np.array([2.0], np.float32),
    )
    assert result[0, 0] == -np.inf
    assert result[0, 1] == -4.0  # 1 - 3 is negative, so the penalty doubles it


@pytest.mark.parametrize("name", ["bias", "prompt_counts", "output_counts"])
@pytest.mark.parametrize("token_id", [-1, NUM_TOKENS])
def test_token_outside_the_vocabulary(
    ops: Ops, rng: np.random.Generator, name: str, token_id: int
) -> None:
    lists = {name: token_lists([{token_id: 1.0}])}
    with pytest.raises(IndexError, match="token id"):
        adjusted(ops, logit_rows(rng, 1, NUM_TOKENS, "normal"), **lists)


@pytest.mark.parametrize("kind", ["normal", "peaked", "ties", "banned"])
@pytest.mark.parametrize("num_tokens", [1, 20, 1000, 32003])
def test_logprobs(ops: Ops, rng: np.random.Generator, num_tokens: int, kind: str) -> None:
    logits = logit_rows(rng, 5, num_tokens, kind)
    token_ids = rng.integers(0, num_tokens, 5).astype(np.int32)
    result = ops.logprobs(logits, token_ids, 20)
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    chosen = exact[np.arange(5), token_ids]
    np.testing.assert_allclose(result.logprobs, chosen, atol=LOGPROB_ERROR, rtol=1e-6)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(result.top_ids, order)
    top = np.take_along_axis(exact, order, axis=1)
    np.testing.assert_allclose(result.top_logprobs, top, atol=LOGPROB_ERROR, rtol=1e-6)
    for s in range(5):
        assert result.ranks[s] == 1 + (logits[s] > logits[s, token_ids[s]]).sum()


def test_logprobs_have_the_bits_of_the_reference(cpu_ops: Ops, rng: np.random.Generator) -> None:
    logits = logit_rows(rng, 4, 32003, "normal")
    token_ids = np.array([0, 5, 32002, 77], np.int32)
    expected = sampling.logprobs(logits, token_ids, 5)
    actual = cpu_ops.logprobs(logits, token_ids, 5)
    assert actual.logprobs.tobytes() == expected.logprobs.tobytes()
    assert actual.top_logprobs.tobytes() == expected.top_logprobs.tobytes()
    np.testing.assert_array_equal(actual.ranks, expected.ranks)


def test_logprobs_without_a_list(ops: Ops, rng: np.random.Generator) -> None:
    result = ops.logprobs(logit_rows(rng, 2, 100, "normal"), np.array([3, 4], np.int32), 0)
    assert result.top_ids.shape == result.top_logprobs.shape == (2, 0)


def test_logprobs_of_bad_logits(ops: Ops, rng: np.random.Generator) -> None:
    logits = logit_rows(rng, 2, 100, "normal")
    logits[1, 60] = np.nan
    with pytest.raises(InvalidLogits):
        ops.logprobs(logits, np.array([3, 4], np.int32), 5)
