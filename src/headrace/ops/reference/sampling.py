"""adjust_logits, sample and logprobs, in numpy.

Choosing is exact: float32 operations in a fixed order and masses as integers, so a row's token
does not depend on the device, the other rows or the order of a sum. Knows nothing of requests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import InvalidLogits
from headrace.ops.protocol import Logprobs
from headrace.ops.reference.exact_math import exp32, gumbel, log32, noise_bits, row_key
from headrace.ops.step_inputs import Float32, Int32, SampleInputs, TokenLists, UInt32

GREEDY_TEMPERATURE = np.float32(1e-5)
"""Below, a row is greedy: its second-best token would need a tie to about 1e-4 to be drawn."""
MASS_UNIT = np.float32(2.0**30)
"""Masses are exp(x - best) in units of 2^-30; a token 21.5 nat below the best has none."""
DISTANCE_UNIT = 2.0**20
"""Distances below the best in the mean of typical_p: fixed point with 20 bits after the point."""
SUM_LANES = 16

Bools = NDArray[np.bool_]
Masses = NDArray[np.int64]


def adjust_logits(logits: Float32, inputs: SampleInputs) -> None:
    """Mask, bias, then repetition, frequency and presence penalties. Mutates: logits [S, V].

    Raises: IndexError for a listed token outside the vocabulary.
    Source: repetition arXiv 1909.05858; frequency and presence as in the OpenAI API.
    """
    for lists in (inputs.bias, inputs.prompt_counts, inputs.output_counts):
        if lists is not None:
            check_token_ids(lists.token_ids, logits.shape[1])
    if inputs.token_mask is not None:
        logits[~_allowed(inputs.token_mask, logits.shape[1])] = -np.inf
    for s, row in enumerate(logits):
        if inputs.bias is not None:
            ids, values = _row_list(inputs.bias, s)
            row[ids] += values
        prompt_ids, _ = _row_list(inputs.prompt_counts, s)
        output_ids, output_counts = _row_list(inputs.output_counts, s)
        seen = np.union1d(prompt_ids, output_ids)
        penalty = inputs.repetition_penalty[s]
        if penalty != 1 and seen.size:
            row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        row[output_ids] -= inputs.frequency_penalty[s] * output_counts
        row[output_ids] -= inputs.presence_penalty[s]


def _allowed(token_mask: UInt32, num_tokens: int) -> Bools:
    """Shapes: token_mask [S, ceil(V/32)] -> [S, V]."""
    bits = np.unpackbits(token_mask.view(np.uint8), axis=1, bitorder="little")
    return bits[:, :num_tokens].astype(bool)


def _row_list(lists: TokenLists | None, s: int) -> tuple[Int32, Float32]:
    if lists is None:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    part = slice(int(lists.start[s]), int(lists.start[s + 1]))
    return lists.token_ids[part], lists.values[part]


def check_token_ids(token_ids: Int32, num_tokens: int) -> None:
    """Raises: IndexError for a token outside the vocabulary."""
    bad = token_ids[(token_ids < 0) | (token_ids >= num_tokens)]
    if bad.size:
        raise IndexError(f"token id {bad[0]} is outside the {num_tokens} logits of a row.")


def sample(logits: Float32, inputs: SampleInputs) -> Int32:
    """Choose a token per row. Shapes: [S, V] -> [S]. Raises: InvalidLogits."""
    check_logits(logits)
    chosen = np.empty(len(logits), dtype=np.int32)
    for s, row in enumerate(logits):
        if inputs.temperature[s] < GREEDY_TEMPERATURE:
            chosen[s] = np.argmax(row)
            continue
        distances = scaled_distances(row, inputs.temperature[s])
        keep = kept_tokens(distances, inputs, s)
        key = row_key(int(inputs.seeds[s]), int(inputs.positions[s]))
        kept = np.flatnonzero(keep)
        scores = distances[kept] + gumbel(noise_bits(kept, key))
        chosen[s] = kept[np.argmax(scores)]
    return chosen


def check_logits(logits: Float32) -> None:
    """Raises: InvalidLogits for rows with NaN, +inf, or nothing above -inf."""
    best = logits.max(axis=1, initial=-np.inf)
    bad = np.flatnonzero(~np.isfinite(best))  # max passes NaN on
    if bad.size:
        raise InvalidLogits(bad.tolist())


def scaled_distances(row: Float32, temperature: np.float32) -> Float32:
    """How far below the best each token is, over temperature. Shapes: [V] -> [V], at most 0."""
    with np.errstate(over="ignore"):  # -inf is far enough
        distances: Float32 = (row - row.max()) * (np.float32(1.0) / temperature)
    return distances


def kept_tokens(distances: Float32, inputs: SampleInputs, s: int) -> Bools:
    """What top_k, top_p, min_p and typical_p leave, in this order; ties stay together."""
    keep = np.ones(len(distances), dtype=bool)
    top_k = int(inputs.top_k[s])
    if 0 < top_k < len(distances):
        keep &= distances >= np.partition(distances, -top_k)[-top_k]
    if inputs.top_p[s] >= 1 and inputs.min_p[s] <= 0 and inputs.typical_p[s] >= 1:
        return keep
    weights = exp32(distances)
    masses = np.rint(weights * MASS_UNIT).astype(np.int64)
    if inputs.top_p[s] < 1:
        keep &= masses > 0
        _keep_smallest(-distances, masses, keep, float(inputs.top_p[s]))
        keep |= distances == 0
    if inputs.min_p[s] > 0:
        keep &= weights >= inputs.min_p[s]
        keep |= distances == 0
    if inputs.typical_p[s] < 1:
        keep &= masses > 0
        surprise = -distances[keep].astype(np.float64)
        mean = _mean(np.rint(surprise * DISTANCE_UNIT).astype(np.int64), masses[keep])
        oddness = np.abs(-distances.astype(np.float64) - mean).astype(np.float32)
        _keep_smallest(oddness, masses, keep, float(inputs.typical_p[s]))
        keep |= distances == 0
    return keep


def _keep_smallest(order: NDArray[np.floating], masses: Masses, keep: Bools, share: float) -> None:
    """Keep a token while the mass strictly before it is below share of all. Mutates: keep."""
    ids = np.flatnonzero(keep)
    values, inverse = np.unique(order[ids], return_inverse=True)
    sums = np.zeros(len(values), dtype=np.int64)
    np.add.at(sums, inverse, masses[ids])
    before = np.cumsum(sums) - sums
    keep[ids] = (before.astype(np.float64) < share * float(sums.sum()))[inverse]


def _mean(values: Masses, masses: Masses) -> float:
    """Mean of fixed-point values weighted by masses, from exact sums of two halves."""
    low = int(((values & 0x1FFF) * masses).sum())
    high = int(((values >> 13) * masses).sum())
    return (float(high) * 8192.0 + float(low)) / (float(int(masses.sum())) * DISTANCE_UNIT)


def logprobs(logits: Float32, token_ids: Int32, num_top: int) -> Logprobs:
    """Log-softmax of the chosen tokens, their ranks, and the num_top best of each row.

    A rank counts the tokens that are strictly more likely, plus 1. Ties in the list: lowest id.
    Raises: InvalidLogits; IndexError for a token outside the vocabulary.
    """
    check_logits(logits)
    num_rows, num_tokens = logits.shape
    check_token_ids(token_ids, num_tokens)
    num_top = min(num_top, num_tokens)
    best = logits.max(axis=1, keepdims=True)
    log_sums = np.array([_log_sum(row) for row in logits - best], dtype=np.float32)
    chosen = logits[np.arange(num_rows), token_ids]
    top_ids = np.argsort(-logits, axis=1, kind="stable")[:, :num_top].astype(np.int32)
    top = np.take_along_axis(logits, top_ids, axis=1)
    return Logprobs(
        logprobs=(chosen - best[:, 0]) - log_sums,
        ranks=(1 + (logits > chosen[:, None]).sum(axis=1)).astype(np.int32),
        top_ids=top_ids,
        top_logprobs=(top - best) - log_sums[:, None],
    )


def _log_sum(distances: Float32) -> np.float32:
    """log of the sum of exp: float64 sums in 16 lanes, lane j taking every 16th token from j."""
    padded = np.zeros(-(-len(distances) // SUM_LANES) * SUM_LANES, dtype=np.float64)
    padded[: len(distances)] = exp32(distances)
    lanes = np.add.accumulate(padded.reshape(-1, SUM_LANES), axis=0)[-1]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    result: np.float32 = log32(lanes.astype(np.float32))[0]
    return result
