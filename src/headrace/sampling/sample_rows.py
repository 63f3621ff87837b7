"""Sampling parameters of running requests, kept as rows so that a step gathers them at once.

In: NewRequest records, then the tokens each request gains. Out: SampleInputs of a step.
Knows nothing of models, blocks or text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import is_not
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.request import SamplingParams
from headrace.core.step import NewRequest
from headrace.ops.step_inputs import SampleInputs, TokenLists, UInt32
from headrace.sampling.logits_rule import LogitsRule

_ROW = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("typical_p", np.float32),
        ("seed", np.uint64),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
    ]
)


@dataclass(slots=True)
class SampleRow:
    """One request's parameters and the tokens they depend on."""

    new: NewRequest
    values: NDArray[np.void]
    has_penalty: bool
    is_plain: bool
    token_mask: UInt32 | None
    rule: LogitsRule | None = None
    output_token_ids: list[int] = field(default_factory=list)
    prompt_counts: Counter[int] = field(default_factory=Counter)
    output_counts: Counter[int] = field(default_factory=Counter)

    @property
    def sampling(self) -> SamplingParams:
        return self.new.sampling

    def append(self, token_id: int) -> None:
        """A token was chosen."""
        self.output_token_ids.append(token_id)
        if self.has_penalty:
            self.output_counts[token_id] += 1
        if self.rule is not None:
            self.rule.append(token_id)

    def take_back(self, num_tokens: int) -> None:
        """The newest tokens were guesses only. Not for rows with a rule."""
        for _ in range(num_tokens):
            token_id = self.output_token_ids.pop()
            if self.has_penalty:
                self.output_counts[token_id] -= 1
                if not self.output_counts[token_id]:
                    del self.output_counts[token_id]

    def mask(self) -> UInt32 | None:
        """Tokens that may come next, None for all. Shapes: [ceil(V/32)]."""
        if self.rule is None:
            return self.token_mask
        mask = self.rule.mask()
        return mask if self.token_mask is None else mask & self.token_mask

    def bias(self) -> dict[int, float]:
        """Additive logits of the next token: the request's own, and -inf for what may not come."""
        bias = dict(self.sampling.logit_bias)
        if len(self.output_token_ids) < self.sampling.min_tokens:
            bias.update(dict.fromkeys(self.new.stop_token_ids, -np.inf))
        for banned in self.banned_tokens():
            bias[banned] = -np.inf
        return bias

    def banned_tokens(self) -> Iterable[int]:
        """Last tokens of bad words whose beginning stands at the end of the output."""
        output = self.output_token_ids
        for word in self.new.bad_words_ids:
            head = list(word[:-1])
            if not head or output[-len(head) :] == head:
                yield word[-1]


def make_row(new: NewRequest, vocab_size: int, rule: LogitsRule | None = None) -> SampleRow:
    """The row of a request that enters, with the rule of its form if it has one.

    The rule has taken in the tokens that the answer brings along.
    """
    params = new.sampling
    values = np.zeros((), dtype=_ROW)
    for name in _ROW.names or ():
        values[name] = new.seed if name == "seed" else getattr(params, name)
    values["top_k"] = max(params.top_k, 0)
    has_penalty = (
        params.repetition_penalty != 1
        or params.presence_penalty != 0
        or params.frequency_penalty != 0
    )
    mask = None
    if params.allowed_token_ids is not None:
        mask = token_mask(params.allowed_token_ids, vocab_size)
    row = SampleRow(new, values, has_penalty, new.is_plain, mask, rule)
    row.output_token_ids.extend(new.output_token_ids)
    if has_penalty:
        row.prompt_counts.update(new.prompt_token_ids)
        row.output_counts.update(new.output_token_ids)
    return row


def token_mask(token_ids: Sequence[int], vocab_size: int) -> UInt32:
    """A bit per token of the vocabulary. Shapes: [ceil(V/32)] uint32."""
    mask = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
    ids = np.asarray(token_ids, dtype=np.int64)
    np.bitwise_or.at(mask, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return mask


class SampleGatherer:
    """Gathers the rows of steps. Most steps choose for the rows of the step before: what does not
    change from token to token is kept."""

    def __init__(self) -> None:
        self._rows: Sequence[SampleRow] = ()
        self._columns: dict[str, Any] = {}

    def gather(
        self, rows: Sequence[SampleRow], positions: Sequence[int], vocab_size: int
    ) -> SampleInputs:
        """The arrays of a step's S sampled rows; `positions` are where the new tokens will stand.

        Read only: the next step may have them again.
        """
        if all(row.is_plain for row in rows):
            return self.gather_plain(rows, positions)
        penalized = any(row.has_penalty for row in rows)
        biases = [row.bias() for row in rows]
        return SampleInputs(
            **self._columns_of(rows),
            positions=np.array(positions, dtype=np.int64),
            prompt_counts=token_lists([row.prompt_counts for row in rows]) if penalized else None,
            output_counts=token_lists([row.output_counts for row in rows]) if penalized else None,
            bias=token_lists(biases) if any(biases) else None,
            token_mask=masks(rows, vocab_size),
        )

    def gather_plain(self, rows: Sequence[SampleRow], positions: Sequence[int]) -> SampleInputs:
        """As `gather`, of rows that are all plain."""
        columns = self._columns_of(rows)
        return SampleInputs(**columns, positions=np.array(positions, dtype=np.int64))

    def _columns_of(self, rows: Sequence[SampleRow]) -> dict[str, Any]:
        if len(rows) != len(self._rows) or any(map(is_not, rows, self._rows)):
            table = np.array([row.values for row in rows], dtype=_ROW)
            columns = {name: np.ascontiguousarray(table[name]) for name in _ROW.names or ()}
            columns["seeds"] = columns.pop("seed")
            self._rows, self._columns = list(rows), columns
        return self._columns


def token_lists(rows: Sequence[dict[int, float]] | Sequence[Counter[int]]) -> TokenLists:
    """Ragged lists in row order."""
    start = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=start[1:])
    ids = [token_id for row in rows for token_id in row]
    values = [value for row in rows for value in row.values()]
    return TokenLists(start, np.asarray(ids, dtype=np.int32), np.asarray(values, dtype=np.float32))


def masks(rows: Sequence[SampleRow], vocab_size: int) -> UInt32 | None:
    """Masks of all rows when any has one; rows without one may choose everything."""
    own = [row.mask() for row in rows]
    if all(mask is None for mask in own):
        return None
    everything = np.full(-(-vocab_size // 32), 0xFFFFFFFF, dtype=np.uint32)
    return np.stack([everything if mask is None else mask for mask in own])
