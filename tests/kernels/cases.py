"""Shapes, ugly inputs and tolerances of the kernels: one table for tests and benchmarks.

In: a case and a seeded generator. Out: the arrays of one call. Nothing here computes an expected
result: that is the reference's part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.ops.protocol import AttentionSpec
from headrace.ops.step_inputs import SampleInputs, StepInputs, TokenLists

Floats = NDArray[np.floating[Any]]

BLOCK_SIZE = 32

# Largest error over the largest expected value, measured against the float64 reference.
FLOAT32_ERROR = 2e-6
"""A handful of float32 roundings: norms, rope, activations. Units in the last place: about 16."""
ATTENTION_FLOAT_ERROR = 3e-6
"""Attention in float32 over exact bf16 keys and values."""
ATTENTION_BF16_ERROR = 4e-3
"""Attention with queries and probabilities rounded to bf16 (2^-9 each), one rounding per term."""
ATTENTION_BF16_RMS_ERROR = 3e-3
"""The same, as root mean square error over root mean square value: roundings average out."""
LOGPROB_ERROR = 4e-6
"""Absolute, nat: float32 roundings of a distance up to 30 and of the logarithm of the sum."""

# -- rows ----------------------------------------------------------------------------------------

ROW_COUNTS = (0, 1, 2, 3, 7, 33)
WIDTHS = (32, 64, 80, 896, 1536, 1000)
"""896 is Qwen2.5-0.5B; 80 and 1000 are no multiple of a vector block of 64."""


def rows(rng: np.random.Generator, num_rows: int, width: int, kind: str = "normal") -> Floats:
    """A [num_rows, width] float32 array: normal, outliers, tiny, or zero."""
    x = rng.standard_normal((num_rows, width)).astype(np.float32)
    if kind == "outliers" and x.size:
        x[:, :: max(1, width // 3)] *= 1000
    if kind == "tiny":
        x *= np.float32(1e-12)
    if kind == "zero":
        x[:] = 0
    return x


ROW_KINDS = ("normal", "outliers", "tiny", "zero")


def bf16_exact(x: Floats) -> NDArray[np.float32]:
    """x with its low 16 mantissa bits cut, so that a bf16 cache holds it exactly."""
    bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


# -- attention -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """A batch: `requests` are (tokens already in the cache, new tokens) pairs."""

    name: str
    spec: AttentionSpec
    requests: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return self.name


def spec(heads: int, kv_heads: int, size: int, **more: Any) -> AttentionSpec:
    return AttentionSpec(heads, kv_heads, size, scale=size**-0.5, **more)


ATTENTION_CASES = (
    AttentionCase("one-token", spec(2, 1, 64), ((0, 1),)),
    AttentionCase("empty-request", spec(2, 1, 64), ((0, 1), (5, 0), (3, 2))),
    AttentionCase("no-rows", spec(2, 1, 64), ()),
    AttentionCase("block-edge", spec(4, 2, 64), ((31, 1), (32, 1), (33, 1), (63, 1), (64, 1))),
    AttentionCase("prefill-block-edge", spec(4, 2, 64), ((0, 31), (0, 32), (0, 33))),
    AttentionCase("prefill-tile-edge", spec(4, 2, 64), ((0, 63), (0, 64), (0, 65), (64, 64))),
    AttentionCase("split-edge", spec(2, 1, 64), ((511, 1), (512, 1), (513, 1), (510, 5))),
    AttentionCase("several-splits", spec(2, 1, 64), ((1700, 3),)),
    AttentionCase("one-kv-head", spec(4, 1, 64), ((2100, 1),)),
    AttentionCase("mixed", spec(14, 2, 64), ((100, 1), (0, 70), (513, 4), (37, 40), (0, 1))),
    AttentionCase("group-1", spec(4, 4, 64), ((40, 1), (0, 50))),
    AttentionCase("group-2", spec(8, 4, 96), ((40, 1), (0, 50))),
    AttentionCase("group-4-d256", spec(4, 1, 256), ((40, 1), (0, 50))),
    AttentionCase("group-6-d128", spec(12, 2, 128), ((90, 8), (0, 75))),
    AttentionCase("group-7", spec(14, 2, 64), ((90, 3), (0, 75))),
    AttentionCase("group-8-d128", spec(16, 2, 128), ((90, 3), (0, 40))),
    AttentionCase("group-20", spec(20, 1, 64), ((90, 1), (5, 3))),
    AttentionCase("d80", spec(4, 2, 80), ((70, 1), (0, 33))),
    AttentionCase("d72-no-multiple", spec(4, 2, 72), ((70, 1), (0, 33))),
    AttentionCase("d16-tiny-model", spec(4, 2, 16), ((70, 1), (0, 33))),
    AttentionCase("window", spec(4, 1, 64, window=40), ((39, 1), (40, 1), (300, 1), (0, 200))),
    AttentionCase("window-1", spec(4, 2, 64, window=1), ((130, 1), (60, 10))),
    AttentionCase("window-of-splits", spec(4, 1, 64, window=600), ((1400, 2), (0, 700))),
    AttentionCase("soft-cap", spec(4, 2, 64, soft_cap=2.0), ((100, 1), (0, 70))),
    AttentionCase("soft-cap-window", spec(4, 2, 64, soft_cap=50.0, window=33), ((99, 4), (0, 70))),
)


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """One call, and the tokens that were in the cache before it, in the same flat order.

    Shapes: qkv [T, (H+2K)*D]; past_qkv [X, (H+2K)*D]; past_slots [X].
    """

    qkv: NDArray[np.float32]
    step: StepInputs
    past_qkv: NDArray[np.float32]
    past_slots: NDArray[np.int32]
    num_blocks: int
    block_size: int = BLOCK_SIZE


def attention_inputs(
    case: AttentionCase, rng: np.random.Generator, scale: float = 1.0
) -> AttentionInputs:
    """Values exact in bf16, in shuffled blocks among spare ones."""
    width = case.spec.qkv_width
    lengths = [past + new for past, new in case.requests]
    wanted = [-(-length // BLOCK_SIZE) for length in lengths]
    num_blocks = sum(wanted) + 3
    shuffled = rng.permutation(num_blocks).astype(np.int32)
    table = np.full((len(lengths), max(wanted, default=0) + 2), -1, dtype=np.int32)
    past_slots, slots, positions, taken = [], [], [], 0
    for r, (past, new) in enumerate(case.requests):
        table[r, : wanted[r]] = shuffled[taken : taken + wanted[r]]
        taken += wanted[r]
        where = np.arange(past + new)
        slot = table[r, where // BLOCK_SIZE] * BLOCK_SIZE + where % BLOCK_SIZE
        past_slots.append(slot[:past])
        slots.append(slot[past:])
        positions.append(where[past:])
    flat = [
        np.concatenate([np.zeros(0, np.int64), *part]) for part in (past_slots, slots, positions)
    ]
    starts = np.concatenate([[0], np.cumsum([new for _, new in case.requests])])
    num_rows = int(starts[-1])
    step = StepInputs(
        token_ids=np.zeros(num_rows, np.int32),
        positions=flat[2].astype(np.int32),
        slot_mapping=flat[1].astype(np.int32),
        query_start=starts.astype(np.int32),
        seq_lens=np.asarray(lengths, dtype=np.int32),
        block_table=table,
        logit_rows=np.zeros(0, np.int32),
    )
    values = rng.standard_normal((len(flat[0]) + num_rows, width)) * scale
    exact = bf16_exact(values)
    return AttentionInputs(
        exact[len(flat[0]) :].copy(),
        step,
        exact[: len(flat[0])].copy(),
        flat[0].astype(np.int32),
        num_blocks,
    )


# -- sampling ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """Parameters of one row, by their names in SampleInputs."""

    name: str
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


SAMPLE_SETTINGS = (
    SampleSettings("plain"),
    SampleSettings("cold", temperature=0.3),
    SampleSettings("hot", temperature=2.0),
    SampleSettings("very-cold", temperature=2e-5),
    SampleSettings("greedy", temperature=0.0),
    SampleSettings("top-k-1", top_k=1),
    SampleSettings("top-k-5", top_k=5),
    SampleSettings("top-k-50", temperature=0.7, top_k=50),
    SampleSettings("top-k-huge", top_k=10**9),
    SampleSettings("top-p", top_p=0.9),
    SampleSettings("top-p-small", top_p=0.01),
    SampleSettings("top-p-0", top_p=0.0),
    SampleSettings("top-p-hot", temperature=2.0, top_p=0.95),
    SampleSettings("min-p", min_p=0.1),
    SampleSettings("min-p-1", min_p=1.0),
    SampleSettings("typical", typical_p=0.7),
    SampleSettings("typical-small", typical_p=0.05),
    SampleSettings("chat", temperature=0.8, top_k=40, top_p=0.9, min_p=0.02),
    SampleSettings("all", temperature=1.3, top_k=100, top_p=0.97, min_p=0.001, typical_p=0.9),
)


def sample_inputs(
    settings: list[SampleSettings],
    seeds: NDArray[np.uint64],
    positions: NDArray[np.int64],
    **lists: Any,
) -> SampleInputs:
    """The arrays of a step whose rows have these settings."""
    ones = np.ones(len(settings), np.float32)
    return SampleInputs(
        temperature=np.array([row.temperature for row in settings], np.float32),
        top_k=np.array([row.top_k for row in settings], np.int32),
        top_p=np.array([row.top_p for row in settings], np.float32),
        min_p=np.array([row.min_p for row in settings], np.float32),
        typical_p=np.array([row.typical_p for row in settings], np.float32),
        seeds=seeds.astype(np.uint64),
        positions=positions.astype(np.int64),
        **{
            "repetition_penalty": ones,
            "presence_penalty": 0 * ones,
            "frequency_penalty": 0 * ones,
            **lists,
        },
    )


def token_lists(rows_of_pairs: list[dict[int, float]]) -> TokenLists:
    """Ragged lists from one dict per row."""
    start = np.concatenate([[0], np.cumsum([len(row) for row in rows_of_pairs])])
    ids = [token_id for row in rows_of_pairs for token_id in row]
    values = [value for row in rows_of_pairs for value in row.values()]
    return TokenLists(start.astype(np.int32), np.array(ids, np.int32), np.array(values, np.float32))


def logit_rows(rng: np.random.Generator, num_rows: int, num_tokens: int, kind: str) -> Floats:
    """[num_rows, num_tokens] logits: as a language model gives them, or ugly.

    peaked and flat differ in spread; ties are few distinct values; equal is one value; banned is
    mostly -inf; one-left bans all but one token; huge reaches 1e30.
    """
    spread = {"peaked": 4.0, "flat": 0.3}.get(kind, 2.0)
    x = (rng.standard_normal((num_rows, num_tokens)) * spread).astype(np.float32)
    if kind == "ties":
        x = np.round(x)
    if kind == "equal":
        x[:] = 3.5
    if kind == "banned":
        x[rng.random(x.shape) < 0.95] = -np.inf
        x[:, num_tokens // 2] = 0.5
    if kind == "one-left":
        x[:] = -np.inf
        x[:, num_tokens - 1] = -4
    if kind == "huge":
        x *= np.float32(1e30)
    return x


LOGIT_KINDS = ("peaked", "normal", "flat", "ties", "equal", "banned", "one-left", "huge")
VOCABULARIES = (1, 2, 15, 16, 17, 100, 1000, 32003)
