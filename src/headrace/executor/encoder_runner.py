"""EncoderRunner: token ids of whole sequences to vectors, or to the outputs of a head.

In: sequences of any lengths. Out: an array with a row for each, in their order. Sequences lie one
after the other without padding; long ones go first, so that a pass has about as many tokens as the
next. A sequence's bits depend on its own tokens alone, not on the pass that it is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.core.request import Pooling
from headrace.models.bert import Bert
from headrace.models.encoder_config import EncoderConfig
from headrace.ops.step_inputs import EncoderInputs, Float32, Int32

MAX_PASS_TOKENS = 2048
"""Of a pass: enough that reading the weights costs little, few enough for the caches."""

LEAST_SCRATCH_BYTES = 64 * 2**20

NOT_NUMBERS = "The model's outputs are not numbers because its weights are damaged."


def scratch_bytes(config: EncoderConfig, max_model_len: int) -> int:
    """About what the activations of the largest pass take. Units: tokens.

    Measured: one sequence of 4,096 tokens, width 512, inner width 2,048: 133 MiB.
    """
    num_tokens = max(MAX_PASS_TOKENS, max_model_len)
    of_token = (9 * config.hidden_size + 2 * config.intermediate_size) * 4
    return max(LEAST_SCRATCH_BYTES, num_tokens * of_token)


@frozen
class EncoderSequence:
    """A tokenized input. `token_types` are None where all are 0."""

    token_ids: Sequence[int]
    token_types: Sequence[int] | None = None


class EncoderRunner:
    """Passes of an encoder. Safe to share between threads: the ops serve one at a time."""

    def __init__(self, model: Bert) -> None:
        self._model = model

    @property
    def config(self) -> object:
        return self._model.config

    def vectors(self, sequences: Sequence[EncoderSequence], poolings: Sequence[Pooling]) -> Float32:
        """A vector per sequence, pooled as said, not normalized. Shapes: -> [n, C]."""
        out = np.empty((len(sequences), self._model.config.hidden_size), np.float32)
        for chosen in passes([len(sequence.token_ids) for sequence in sequences]):
            inputs = self._inputs([sequences[index] for index in chosen])
            states = self._model.ops.to_host(self._model.forward(inputs))
            for at, index in enumerate(chosen):
                begin, end = inputs.query_start[at], inputs.query_start[at + 1]
                out[index] = pool(states[begin:end], poolings[index])
        return out

    def outputs(self, sequences: Sequence[EncoderSequence]) -> Float32:
        """The head's outputs for each sequence, as they are. Shapes: -> [n, labels]."""
        out = np.empty((len(sequences), len(self._model.config.labels)), np.float32)
        for chosen in passes([len(sequence.token_ids) for sequence in sequences]):
            inputs = self._inputs([sequences[index] for index in chosen])
            states = self._model.forward(inputs)
            found = self._model.outputs(states, inputs.query_start[:-1])
            out[chosen] = self._model.ops.to_host(found)
        return out

    def _inputs(self, sequences: Sequence[EncoderSequence]) -> EncoderInputs:
        lengths = [len(sequence.token_ids) for sequence in sequences]
        config = self._model.config
        token_ids = [np.asarray(sequence.token_ids, np.int32) for sequence in sequences]
        rows = [position_rows(ids, config.padding_id) for ids in token_ids]
        for row, sequence in zip(rows, sequences, strict=True):
            if sequence.token_types is not None and config.reads_token_types:
                row += np.asarray(sequence.token_types, np.int32) * config.num_positions
        starts: Int32 = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return EncoderInputs(np.concatenate(token_ids), np.concatenate(rows), starts)


def position_rows(token_ids: Int32, padding_id: int | None) -> Int32:
    """Each token's row of the table of positions, of the type 0. Shapes: [n] -> [n].

    With a padding id, rows begin after it, padding keeps its own row and is not counted.
    Source: transformers, RobertaEmbeddings.create_position_ids_from_input_ids.
    """
    if padding_id is None:
        return np.arange(len(token_ids), dtype=np.int32)
    is_text = token_ids != padding_id
    rows: Int32 = (np.cumsum(is_text) * is_text + padding_id).astype(np.int32)
    return rows


def passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of the sequences of each pass, long ones first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    chosen: list[int] = []
    num_tokens = 0
    for index in order:
        if chosen and num_tokens + lengths[index] > MAX_PASS_TOKENS:
            yield chosen
            chosen, num_tokens = [], 0
        chosen.append(index)
        num_tokens += lengths[index]
    if chosen:
        yield chosen


def pool(states: NDArray[np.floating], pooling: Pooling) -> Float32:
    """One vector of a sequence's states. Sums run in float64. Shapes: [n, C] -> [C]."""
    if pooling == "mean":
        mean: Float32 = (states.sum(axis=0, dtype=np.float64) / len(states)).astype(np.float32)
        return mean
    row: Float32 = states[0 if pooling == "cls" else -1].astype(np.float32)
    return row
