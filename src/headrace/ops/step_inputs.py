"""The arrays of one step. Built once per step by the executor, passed explicitly, never changed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Float32 = NDArray[np.float32]


class AdapterRows(NamedTuple):
    """The rows of a step that are of requests with one adapter, ascending.

    `adapter` is what Ops.pack_adapter gave. Shapes: token_rows [n] of T; logit_rows [m] of S.
    """

    adapter: Any
    token_rows: Int32
    logit_rows: Int32


@frozen
class StepInputs:
    """The flat batch: T tokens of R requests, S rows whose logits are wanted. All int32.

    Contiguous. Shapes: token_ids, positions, slot_mapping [T] (block id * block_size + offset,
    -1 skips);
    query_start [R+1]; seq_lens [R] (tokens in the cache after this step); block_table [R, P],
    unused entries -1; logit_rows [S] (rows of the flat batch). `adapters`: each once; rows of none
    are the base's.
    """

    token_ids: Int32
    positions: Int32
    slot_mapping: Int32
    query_start: Int32
    seq_lens: Int32
    block_table: Int32
    logit_rows: Int32
    adapters: tuple[AdapterRows, ...] = ()


@frozen
class EncoderInputs:
    """Whole sequences for an encoder, one after the other. All int32, contiguous.

    Shapes: token_ids [T]; position_rows [T], rows of the encoder's table of positions;
    query_start [R+1].
    """

    token_ids: Int32
    position_rows: Int32
    query_start: Int32


@frozen
class TokenLists:
    """Ragged lists of token ids with a number each: row s owns [start[s], start[s+1])."""

    start: Int32  # [S+1]
    token_ids: Int32  # [X]
    values: Float32  # [X]


@frozen
class SampleInputs:
    """How each of S rows chooses its token.

    Shapes: all [S] but the lists and token_mask [S, ceil(V/32)] (bit set = may be chosen) or None.
    `positions` are the absolute positions of the tokens to be chosen: noise is a function of
    (seed, position, token id) alone. temperature 0 is greedy. top_k 0 keeps all; top_p, typical_p 1
    and min_p 0 are off.
    `prompt_counts` / `output_counts` list the distinct tokens of prompt and output with counts
    (only for rows with a penalty); `bias` lists additive logits (-inf bans a token).
    """

    temperature: Float32
    top_k: Int32
    top_p: Float32
    min_p: Float32
    typical_p: Float32
    seeds: UInt64
    positions: Int64
    repetition_penalty: Float32
    presence_penalty: Float32
    frequency_penalty: Float32
    prompt_counts: TokenLists | None = None
    output_counts: TokenLists | None = None
    bias: TokenLists | None = None
    token_mask: UInt32 | None = None

    @property
    def adjusts_logits(self) -> bool:
        """Whether any row has a mask, a bias or a penalty."""
        parts = (self.token_mask, self.bias, self.prompt_counts, self.output_counts)
        return any(part is not None for part in parts)
