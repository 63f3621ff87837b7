"""The canary of a file that is being written: a short text, and what the finished model says of it.

In: the tokenizer of the source, then the file once its tensors are in it. Out: keys of the same
size before and after, so that they can be filled in place. Needs memory for the new model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.core.errors import HeadraceError, ModelFileError
from headrace.core.units import format_bytes
from headrace.executor.canary import LOGPROBS_KEY, MAX_TOKENS, TOKENS_KEY, token_logprobs
from headrace.executor.load import ModelTensors, load_weights, read_config
from headrace.models.registry import model_class
from headrace.ops.protocol import Ops
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader
from headrace.weights.gguf_writer import KeyValue
from headrace.weights.weight_reader import WeightReader

TEXT = (
    "The lighthouse keeper wrote down the weather every evening: wind from the north-west, "
    "12 degrees, rain after 9.\n\n"
    "def mean(values):\n    return sum(values) / len(values)\n\n"
    "Das Schiff kam am Morgen an. Le bateau est parti le soir."
)
_BLOCK_SIZE = 32
_MOST_OF_FREE = 0.7
_LONG_ROPE = "rope_factors_long.weight"


def canary_tokens(tokenizer: Tokenizer) -> list[int]:
    """The first tokens of the text."""
    return tokenizer.encode(TEXT)[:MAX_TOKENS]


def why_no_canary(reader: WeightReader, file_bytes: int, free_bytes: int) -> str | None:
    """Why the model that is made of this one cannot be asked here; None where it can.

    Units: bytes, of the new file and of free memory.
    """
    if file_bytes > _MOST_OF_FREE * free_bytes:
        return f"{format_bytes(file_bytes)} of weights do not fit into what is free of memory"
    try:
        config = read_config(model_class(reader.architecture), reader)
        ModelTensors.open(reader, config).refuse_unread()
    except HeadraceError as error:
        return error.message
    if config.long_rope is not None or _LONG_ROPE in reader.names():
        return "what the model says depends on the length of its context"
    return None


def canary_keys(token_ids: Sequence[int], logprobs: Sequence[float] = ()) -> dict[str, KeyValue]:
    """Keys of a file; without `logprobs` with room for them."""
    values = [float(value) for value in logprobs] or [0.0] * (len(token_ids) - 1)
    return {TOKENS_KEY: list(token_ids), LOGPROBS_KEY: values}


def measured_keys(path: Path, token_ids: Sequence[int], ops: Ops) -> Mapping[str, KeyValue]:
    """The keys with what the model in the file says.

    Raises: ModelFileError for a file that does not run.
    """
    reader = GgufReader(path)
    try:
        model_type = model_class(reader.architecture)
        config = read_config(model_type, reader)
        weights = load_weights(model_type, config, reader, ops, len(token_ids))
        ops.finish_packing()
        cache = ops.allocate_kv(config.attention, -(-len(token_ids) // _BLOCK_SIZE), _BLOCK_SIZE)
        model = model_type(ops, config, weights)
        found = token_logprobs(model, cache, token_ids, _BLOCK_SIZE)
        if not (found <= 0).all():
            raise ModelFileError(
                f"{path}: the quantized model gives no log-probabilities of a short text; its "
                "weights are damaged or too large. --no-canary writes it all the same."
            )
        return canary_keys(token_ids, found.tolist())
    finally:
        reader.close()
