"""A draft model beside its target: the same vocabulary, checked; its own weights; a cache with the
target's blocks.

In: the path of a model file, the target's file and settings. Out: what it needs, for the memory
plan; then StartedDraft, its weights being packed by the target's ops, which share their threads.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError, ModelFileError
from headrace.core.frozen import frozen
from headrace.executor.load import ModelTensors, load_weights, read_config
from headrace.executor.memory import Capacity, DraftNeed, kv_cache_dtype, scratch_bytes
from headrace.executor.memory import weights_bytes as plan_weights
from headrace.executor.uneven_keys import mark_uneven_keys
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.ops.protocol import KVCache, Ops
from headrace.weights.weight_reader import WeightReader, open_weights

logger = logging.getLogger(__name__)

MIN_HEAD_ROWS = 32768
FIELD = "engine.draft_model"
_ALLOWED = "a model with the vocabulary of the model that it guesses for"


@frozen
class StartedDraft:
    """A draft model that can run once its weights are packed.

    `pass_ratio`: bytes that a pass reads, relative to the target's. `is_rejecting`: its guesses are
    kept by rejection sampling, where a request does not forbid it.
    """

    model: Llama
    cache: KVCache
    reader: WeightReader
    pass_ratio: float
    is_rejecting: bool = False


@frozen
class DraftFile:
    """An open draft model. `head_rows`: tokens that it may guess, the first so many."""

    reader: WeightReader
    model: type[Llama]
    config: ModelConfig
    head_rows: int
    is_rejecting: bool = False

    def need(self, ops: Ops, engine: EngineConfig, max_positions: int) -> DraftNeed:
        """What it takes."""
        weights = plan_weights(self.config, self.reader, ops, max_positions)
        tensors = ModelTensors.open(self.reader, self.config)
        head = tensors.get("head" if tensors.has("head") else "embed")
        unused = 1 - self.head_rows / self.config.vocab_size
        return DraftNeed(
            weights_bytes=weights - int(unused * ops.packed_bytes(head)),
            scratch_bytes=scratch_bytes(self.config, engine, engine.max_num_seqs),
            block_bytes=ops.kv_bytes_per_block(
                self.config.attention, engine.block_size, kv_cache_dtype(engine)
            ),
        )

    def start(
        self, ops: Ops, capacity: Capacity, cache: KVCache, weights_bytes: int
    ) -> StartedDraft:
        """Begin to pack. `weights_bytes` are those of `need`.

        Raises: MissingTensor, UnsupportedFormat, ModelFileError.
        """
        max_positions = min(capacity.max_model_len, self.config.max_model_len)
        weights = load_weights(
            self.model, self.config, self.reader, ops, max_positions, head_rows=self.head_rows
        )
        ratio = weights_bytes / capacity.weights_bytes
        if ratio > 1:
            logger.warning(
                "the draft model %s reads %.1f times what the model reads that it guesses for, so "
                "guesses cost more time than they save: take a smaller one",
                self.reader.path.name,
                ratio,
            )
        model = self.model(ops, self.config, weights)
        return StartedDraft(model, cache, self.reader, ratio, self.is_rejecting)


def open_draft(
    path: Path, target: WeightReader, vocab_size: int, engine: EngineConfig
) -> DraftFile:
    """Open a draft model and see that it speaks of the same tokens.

    Its head has the first half of a large vocabulary's rows: tokens are numbered by how often they
    are needed, and a head is a third of what a small model reads.
    Raises: ConfigError, ModelFileError, UnsupportedFormat.
    """
    if engine.device == "cuda":
        hint = "Leave it out, or give --device cpu."
        raise ConfigError(FIELD, engine.draft_model, "nothing on the device cuda", hint)
    reader = open_weights(path)
    try:
        check_vocabularies(str(engine.draft_model), target, reader)
        model = model_class(reader.architecture)
        config = read_config(model, reader)
        if kv_cache_dtype(engine) == "int8":
            config = mark_uneven_keys(config, reader)
    except BaseException:
        reader.close()
        raise
    head_rows = min(config.vocab_size, vocab_size, max(config.vocab_size // 2, MIN_HEAD_ROWS))
    return DraftFile(reader, model, config, head_rows, engine.draft_acceptance == "rejection")


def check_vocabularies(name: str, target: WeightReader, draft: WeightReader) -> None:
    """See that ids mean the same tokens. Padding at the end may differ.

    Raises: ConfigError, ModelFileError.
    """
    ours, theirs = token_texts(target), token_texts(draft)
    for token_id, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other and one is not None and other is not None:
            hint = f"Token {token_id} is {one!r} in {target.path.name} and {other!r} there."
            raise ConfigError(FIELD, name, _ALLOWED, hint)
    if 2 * len(theirs) < len(ours):
        hint = f"It has {len(theirs)} tokens, {target.path.name} has {len(ours)}."
        raise ConfigError(FIELD, name, _ALLOWED, hint)


def token_texts(reader: WeightReader) -> Sequence[str | None]:
    """Tokens by id, None for ids that stand for nothing. Raises: ModelFileError."""
    if reader.kind == "gguf":
        tokens: Any = reader.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, Sequence):
            raise ModelFileError(f"{reader.path} has no tokenizer.ggml.tokens.")
        return [None if _is_padding(text) else text for text in tokens]
    path = reader.path / "tokenizer.json"
    try:
        tokenizer = json.loads(path.read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: index for index, entry in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path} is not a tokenizer: {error}.") from error
    ids = {index: text for text, index in (vocabulary | added).items()}
    return [ids.get(index) for index in range(1 + max(ids, default=-1))]


def _is_padding(text: str) -> bool:
    """As llama.cpp's converter names ids that the tokenizer leaves open."""
    return text.startswith("[PAD") and text.endswith("]")
