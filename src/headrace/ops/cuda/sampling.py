"""Choosing tokens on the device: adjust_logits, sample and logprobs, one program per row.

In: float32 logits and the rows' parameters. Out: the tokens that the reference chooses. A filter
keeps what lies within a distance of the best token; the distance is found by bisection over the
bits of floats, with counts and integer masses, so that nothing is sorted and no order of a sum
matters. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from headrace.ops.cuda.device_step import to_device
from headrace.ops.cuda.exact_math import exp32, gumbel, row_keys
from headrace.ops.step_inputs import Int32, SampleInputs, TokenLists

BLOCK = 4096


@triton.jit
def mask_kernel(logits, mask, width, words, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_token = token < width
    bits = tl.load(mask + row * words + token // 32, mask=is_token, other=-1)
    is_banned = ((bits >> (token % 32)) & 1) == 0
    tl.store(logits + row * width + token, float("-inf"), mask=is_token & is_banned)


@triton.jit(do_not_specialize=["num_places"])
def adjust_kernel(
    logits, places, bias, counts, kinds, repetition, presence, frequency, num_places, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Each listed token once: bias, then the penalties of its row. kinds: 1 seen, 2 in output."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_place = i < num_places
    place = tl.load(places + i, mask=is_place, other=0)
    row = place // width
    x = tl.load(logits + place, mask=is_place, other=0.0)
    x = x + tl.load(bias + i, mask=is_place, other=0.0)
    kind = tl.load(kinds + i, mask=is_place, other=0)
    penalty = tl.load(repetition + row, mask=is_place, other=1.0)
    penalized = tl.where(x > 0, tl.div_rn(x, penalty), x * penalty)
    x = tl.where((kind & 1) != 0, penalized, x)
    count = tl.load(counts + i, mask=is_place, other=0.0)
    less = tl.load(frequency + row, mask=is_place, other=0.0) * count
    x = tl.where((kind & 2) != 0, x - less, x)
    shift = tl.load(presence + row, mask=is_place, other=0.0)
    x = tl.where((kind & 2) != 0, x - shift, x)
    tl.store(logits + place, x, mask=is_place)


def adjust_logits(logits: torch.Tensor, inputs: SampleInputs) -> None:
    """Mask, bias, then repetition, frequency and presence penalties. Mutates: logits [S, V]."""
    num_rows, width = logits.shape
    device = logits.device
    if inputs.token_mask is not None and num_rows:
        mask = to_device(inputs.token_mask.view(np.int32), device)
        mask_kernel[(num_rows, triton.cdiv(width, BLOCK))](
            logits, mask, width, mask.shape[1], BLOCK=BLOCK
        )
    listed = _listed(inputs, width)
    if listed is None:
        return
    arrays = (*listed, inputs.repetition_penalty, inputs.presence_penalty, inputs.frequency_penalty)
    tensors = [to_device(array, device) for array in arrays]
    num_places = len(listed[0])
    adjust_kernel[(triton.cdiv(num_places, 256),)](
        logits, *tensors, num_places, width, BLOCK=256, enable_fp_fusion=False
    )


def _listed(
    inputs: SampleInputs, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], Int32] | None:
    """Every token that a list names, once: its place in the logits, bias, count and kinds."""
    lists = (inputs.bias, inputs.prompt_counts, inputs.output_counts)
    found = [_places(part, width) for part in lists]
    places = np.unique(np.concatenate(found))
    if not len(places):
        return None
    at = [np.searchsorted(places, part) for part in found]
    bias, counts = np.zeros(len(places), np.float32), np.zeros(len(places), np.float32)
    kinds = np.zeros(len(places), np.int32)
    if inputs.bias is not None:
        bias[at[0]] = inputs.bias.values
    kinds[at[1]] |= 1
    kinds[at[2]] |= 3
    if inputs.output_counts is not None:
        counts[at[2]] = inputs.output_counts.values
    return places, bias, counts, kinds


def _places(lists: TokenLists | None, width: int) -> NDArray[np.int64]:
    if lists is None:
        return np.zeros(0, np.int64)
    rows = np.repeat(np.arange(len(lists.start) - 1, dtype=np.int64), np.diff(lists.start))
    return rows * width + lists.token_ids


@triton.jit
def _distance_key(row, start, width, best, inverse, BLOCK: tl.constexpr):
    """Distances below the best, at most 0, and their bits as integers that grow with them."""
    token = start + tl.arange(0, BLOCK)
    x = tl.load(row + token, mask=token < width, other=float("-inf"))
    distance = (x - best) * inverse
    return distance, tl.abs(distance).to(tl.int32, bitcast=True)


@triton.jit
def _mass(distance):
    """exp(distance) in units of 2^-30, rounded to even."""
    scaled = exp32(distance) * 1073741824.0
    # Adding 2^23 leaves no bits after the point; from there on there are none.
    rounded = (scaled + 8388608.0) - 8388608.0
    return tl.where(scaled < 8388608.0, rounded, scaled).to(tl.int64)


@triton.jit
def _odd_key(distance, mean):
    oddness = tl.abs(tl.abs(distance).to(tl.float64) - mean).to(tl.float32)
    return oddness.to(tl.int32, bitcast=True)


@triton.jit
def _nearest(row, width, best, inverse, wanted, BLOCK: tl.constexpr):
    """The smallest key that at least `wanted` tokens do not exceed."""
    low = 0
    high = 0x7F800000
    while low < high:
        middle = low + (high - low) // 2
        count = 0
        for start in range(0, width, BLOCK):
            token = start + tl.arange(0, BLOCK)
            _, key = _distance_key(row, start, width, best, inverse, BLOCK)
            count += tl.sum(((key <= middle) & (token < width)).to(tl.int32), axis=0)
        if count >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


@triton.jit
def _mass_below(row, width, best, inverse, limit, kept, mean, min_weight, IS_ODD: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """Mass of the tokens within `kept` whose key, or oddness, is below limit."""
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, width, BLOCK):
        token = start + tl.arange(0, BLOCK)
        distance, key = _distance_key(row, start, width, best, inverse, BLOCK)
        is_kept = (token < width) & (key <= kept)
        if IS_ODD:
            is_kept = is_kept & ((exp32(distance) >= min_weight) | (key == 0))
            key = _odd_key(distance, mean)
        total += tl.where(is_kept & (key < limit), _mass(distance), 0)
    return tl.sum(total, axis=0)


@triton.jit
def _share_key(row, width, best, inverse, share, kept, mean, min_weight, IS_ODD: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    """The largest key with less than `share` of all mass before it."""
    whole = _mass_below(
        row, width, best, inverse, 0x7F800001, kept, mean, min_weight, IS_ODD, BLOCK
    )
    wanted = share.to(tl.float64) * whole.to(tl.float64)
    low = 0
    high = 0x7F800000
    while low < high:
        middle = low + (high - low + 1) // 2
        before = _mass_below(
            row, width, best, inverse, middle, kept, mean, min_weight, IS_ODD, BLOCK
        )
        if before.to(tl.float64) < wanted:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def _mean_distance(row, width, best, inverse, kept, min_weight, BLOCK: tl.constexpr):
    """Mean distance by mass, in fixed point with 20 bits after the point, exact."""
    low = tl.zeros([BLOCK], tl.int64)
    high = tl.zeros([BLOCK], tl.int64)
    masses = tl.zeros([BLOCK], tl.int64)
    for start in range(0, width, BLOCK):
        token = start + tl.arange(0, BLOCK)
        distance, key = _distance_key(row, start, width, best, inverse, BLOCK)
        mass = _mass(distance)
        is_kept = (token < width) & (key <= kept) & (mass > 0)
        is_kept = is_kept & ((exp32(distance) >= min_weight) | (key == 0))
        mass = tl.where(is_kept, mass, 0)
        # Masses end 21.5 below the best: the product stays within 25 bits.
        scaled = tl.where(is_kept, tl.abs(distance).to(tl.float64) * 1048576.0, 0.0)
        value = ((scaled + 6755399441055744.0) - 6755399441055744.0).to(tl.int64)
        low += (value & 0x1FFF) * mass
        high += (value >> 13) * mass
        masses += mass
    top = tl.sum(high, axis=0).to(tl.float64) * 8192.0 + tl.sum(low, axis=0).to(tl.float64)
    return top / (tl.sum(masses, axis=0).to(tl.float64) * 1048576.0)


@triton.jit
def sample_kernel(
    logits, temperatures, top_ks, top_ps, min_ps, typical_ps, seeds, positions, chosen, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0)
    row = logits + s.to(tl.int64) * width
    best = float("-inf")
    is_bad = 0
    for start in range(0, width, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < width, other=float("-inf"))
        is_bad += tl.sum(((x != x) | (x == float("inf"))).to(tl.int32), axis=0)
        best = tl.maximum(best, tl.max(x, axis=0))
    if (is_bad > 0) | (best == float("-inf")):
        tl.store(chosen + s, -1)
        return
    temperature = tl.load(temperatures + s)
    is_greedy = temperature < 1e-5
    inverse = tl.div_rn(1.0, tl.where(is_greedy, 1.0, temperature))
    kept = 0x7F800000
    odd_kept = 0x7F800001
    mean = tl.zeros([1], tl.float64)
    min_weight = tl.load(min_ps + s)
    top_k = tl.load(top_ks + s)
    top_p = tl.load(top_ps + s)
    typical_p = tl.load(typical_ps + s)
    needs_mass = False
    if is_greedy:
        kept = 0
        min_weight = 0.0
        typical_p = 1.0
    else:
        if (top_k > 0) & (top_k < width):
            kept = _nearest(row, width, best, inverse, top_k, BLOCK)
        if top_p < 1.0:
            needs_mass = True
            kept = tl.minimum(
                kept, _share_key(row, width, best, inverse, top_p, kept, mean, 0.0, False, BLOCK)
            )
    if typical_p < 1.0:
        needs_mass = True
        mean += _mean_distance(row, width, best, inverse, kept, min_weight, BLOCK)
        odd_kept = _share_key(
            row, width, best, inverse, typical_p, kept, mean, min_weight, True, BLOCK
        )
    low_key, high_key = row_keys(tl.load(seeds + s).to(tl.uint64, bitcast=True),
                                 tl.load(positions + s))  # fmt: skip
    top_score = float("-inf")
    winner = width
    for start in range(0, width, BLOCK):
        token = start + tl.arange(0, BLOCK)
        distance, key = _distance_key(row, start, width, best, inverse, BLOCK)
        is_kept = (token < width) & (key <= kept)
        if min_weight > 0.0:
            is_kept = is_kept & (exp32(distance) >= min_weight)
        if needs_mass:
            is_kept = is_kept & (_mass(distance) > 0)
        if typical_p < 1.0:
            is_kept = is_kept & (_odd_key(distance, mean) <= odd_kept)
        is_kept = is_kept | ((key == 0) & (token < width))
        score = distance
        if temperature >= 1e-5:
            score = distance + gumbel(token, low_key, high_key)
        score = tl.where(is_kept, score, float("-inf"))
        high = tl.max(score, axis=0)
        first = tl.min(tl.where((score == high) & is_kept, token, width), axis=0)
        if high > top_score:
            top_score = high
            winner = first
    tl.store(chosen + s, winner)


def choice_arrays(inputs: SampleInputs) -> list[NDArray[Any]]:
    """The parameters of a choice, as `choose` takes them."""
    return [
        inputs.temperature, inputs.top_k, inputs.top_p, inputs.min_p, inputs.typical_p,
        inputs.seeds, inputs.positions,
    ]  # fmt: skip


def choose(logits: torch.Tensor, parameters: Sequence[torch.Tensor], chosen: torch.Tensor) -> None:
    """Choose a token per row; -1 where none can be.

    Shapes: logits [S, V]; `choice_arrays` [S] each, on the device; chosen [S] int32.
    Mutates: chosen.
    """
    num_rows, width = logits.shape
    if num_rows:
        sample_kernel[(num_rows,)](
            logits, *parameters, chosen, width,
            BLOCK=min(BLOCK, triton.next_power_of_2(width)), num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip


def sample(logits: torch.Tensor, inputs: SampleInputs) -> torch.Tensor:
    """As `choose`, of parameters in host memory. Shapes: [S, V] -> [S] int32."""
    device = logits.device
    chosen = torch.empty(len(logits), dtype=torch.int32, device=device)
    sent = [
        to_device(array.view(np.int64) if array.dtype == np.uint64 else array, device)
        for array in choice_arrays(inputs)
    ]
    choose(logits, sent, chosen)
    return chosen


@triton.jit(do_not_specialize=["num_tokens"])
def take_tokens_kernel(token_ids, sources, chosen, num_tokens, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(sources + i, mask=i < num_tokens, other=-1)
    token = tl.load(chosen + source, mask=source >= 0, other=0)
    # A row without a choice ends its request; what follows is computed of any token and dropped.
    tl.store(token_ids + i, tl.maximum(token, 0), mask=source >= 0)


def take_tokens(token_ids: torch.Tensor, sources: torch.Tensor, chosen: torch.Tensor) -> None:
    """Put chosen tokens where their rows are named, -1 leaving the others.

    Shapes: token_ids, sources [T]; chosen at least as long as rows are named.
    Mutates: token_ids.
    """
    num_tokens = len(token_ids)
    take_tokens_kernel[(triton.cdiv(num_tokens, 256),)](
        token_ids, sources, chosen, num_tokens, BLOCK=256
    )


@triton.jit(do_not_specialize=["num_top"])
def logprobs_kernel(
    logits, token_ids, logprobs, ranks, top_ids, top_logprobs, width, num_top,
    BLOCK: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0)
    row = logits + s.to(tl.int64) * width
    chosen = tl.load(row + tl.load(token_ids + s))
    best = float("-inf")
    is_bad = 0
    rank = 1
    for start in range(0, width, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < width, other=float("-inf"))
        is_bad += tl.sum(((x != x) | (x == float("inf"))).to(tl.int32), axis=0)
        best = tl.maximum(best, tl.max(x, axis=0))
        rank += tl.sum((x > chosen).to(tl.int32), axis=0)
    if (is_bad > 0) | (best == float("-inf")):
        tl.store(ranks + s, -1)
        return
    sums = tl.zeros([BLOCK], tl.float64)
    for start in range(0, width, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < width, other=float("-inf"))
        sums += exp32(x - best).to(tl.float64)
    log_sum = tl.log(tl.sum(sums, axis=0).to(tl.float32))
    tl.store(logprobs + s, (chosen - best) - log_sum)
    tl.store(ranks + s, rank)
    # The next of the list is the best that comes after the last one: less likely, or a later id.
    last = float("inf")
    last_id = -1
    for place in range(num_top):
        top = float("-inf")
        top_id = width
        for start in range(0, width, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = tl.load(row + token, mask=token < width, other=float("-inf"))
            is_next = (token < width) & ((x < last) | ((x == last) & (token > last_id)))
            value = tl.max(tl.where(is_next, x, float("-inf")), axis=0)
            first = tl.min(tl.where(is_next & (x == value), token, width), axis=0)
            is_first = (value > top) | ((value == top) & (first < top_id))
            top_id = tl.where(is_first, first, top_id)
            top = tl.maximum(top, value)
        tl.store(top_ids + s * num_top + place, top_id)
        tl.store(top_logprobs + s * num_top + place, (top - best) - log_sum)
        last = top
        last_id = top_id


def logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-softmax of the tokens, ranks (-1: bad logits), the num_top best and theirs."""
    num_rows, width = logits.shape
    floats = torch.empty((num_rows, num_top + 1), dtype=torch.float32, device=logits.device)
    integers = torch.empty((num_rows, num_top + 1), dtype=torch.int32, device=logits.device)
    own, rank = floats[:, 0].contiguous(), integers[:, 0].contiguous()
    top, ids = floats[:, 1:].contiguous(), integers[:, 1:].contiguous()
    if num_rows:
        logprobs_kernel[(num_rows,)](
            logits, token_ids, own, rank, ids, top, width, num_top,
            BLOCK=min(BLOCK, triton.next_power_of_2(width)), num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip
    return own, rank, ids, top
