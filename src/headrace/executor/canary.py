"""The quality canary: does this model still say of a short text what it said when it was written?

In: an open model file, the packed model and its cache before anything is in it. Out: how far the
log-probabilities of the text's tokens are from those that the file stores, or an error. A file
without stored ones costs a look into its metadata. What is damaged, misread or computed wrongly
moves them by nats; other devices, instruction sets and an int8 cache by some hundredths.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.core.engine_config import CanaryMode
from headrace.core.errors import ModelFileError, QualityDrift
from headrace.core.frozen import frozen
from headrace.core.step import ScheduledRequest
from headrace.executor.input_batch import flatten
from headrace.models.llama import Llama
from headrace.ops.protocol import KVCache

logger = logging.getLogger(__name__)

TOKENS_KEY, LOGPROBS_KEY = "headrace.canary.tokens", "headrace.canary.logprobs"
MAX_TOKENS = 64
LEAST_TOKENS = 8
MOST_DRIFT = 0.25
"""Mean of the absolute differences, in nats per token. Source: docs/guides/quantize.md."""

Logprobs = NDArray[np.float32]


@frozen
class Reference:
    """What a file stores. Shapes: token_ids n; logprobs [n - 1], of each token but the first."""

    token_ids: tuple[int, ...]
    logprobs: Logprobs


@frozen
class Drift:
    """Absolute differences over the tokens; NaN where the model gives no numbers. Units: nats."""

    mean: float
    worst: float
    num_tokens: int

    @property
    def is_small(self) -> bool:
        return self.mean <= MOST_DRIFT  # and NaN is not


def read_reference(
    metadata: Mapping[str, object], path: object, vocab_size: int
) -> Reference | None:
    """What the file stores, None where it stores nothing. Raises: ModelFileError."""
    if TOKENS_KEY not in metadata:
        return None
    ids, values = metadata[TOKENS_KEY], metadata.get(LOGPROBS_KEY)
    is_list = isinstance(ids, Sequence) and isinstance(values, Sequence)
    if not is_list or not _are_tokens(ids, vocab_size) or not _are_logprobs(values, ids):
        raise ModelFileError(
            f"{path}: {TOKENS_KEY} and {LOGPROBS_KEY} are not {LEAST_TOKENS} to {MAX_TOKENS} "
            f"tokens below {vocab_size} and a log-probability of each but the first. The file is "
            "damaged; quantize it again, or start with --canary off."
        )
    return Reference(tuple(ids), np.array(values, np.float32))  # type: ignore[arg-type]


def _are_tokens(ids: object, vocab_size: int) -> bool:
    if not isinstance(ids, Sequence) or not LEAST_TOKENS <= len(ids) <= MAX_TOKENS:
        return False
    return all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in ids)


def _are_logprobs(values: object, ids: object) -> bool:
    if not isinstance(values, Sequence) or not isinstance(ids, Sequence):
        return False
    is_each = all(isinstance(value, float) and value <= 0 for value in values)
    return len(values) == len(ids) - 1 and is_each and bool(np.isfinite(values).all())


def token_logprobs(
    model: Llama, cache: KVCache, token_ids: Sequence[int], block_size: int
) -> Logprobs:
    """Log-probability of each token but the first. Shapes: -> [n - 1]. Mutates: cache."""
    blocks = list(range(-(-len(token_ids) // block_size)))
    request = ScheduledRequest("canary", list(token_ids), 0, blocks, len(token_ids), False)
    hidden = model.forward(flatten([request], block_size), cache)
    rows = np.arange(len(token_ids) - 1, dtype=np.int32)
    logits = np.asarray(model.ops.to_host(model.logits(hidden, rows)), np.float32)
    found = np.empty(len(rows), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for row, following in zip(rows, token_ids[1:], strict=True):
            shifted = logits[row] - logits[row].max()
            found[row] = shifted[following] - np.log(np.exp(shifted).sum())
    return found


def check_canary(
    model: Llama,
    cache: KVCache,
    reference: Reference | None,
    mode: CanaryMode,
    *,
    block_size: int,
    max_model_len: int,
) -> Drift | None:
    """Run the text and compare; None where there is nothing to compare. Mutates: cache.

    `max_model_len` bounds the text. Raises: QualityDrift with mode "refuse".
    """
    if mode == "off" or reference is None:
        return None
    token_ids = reference.token_ids[:max_model_len]
    if len(token_ids) < LEAST_TOKENS:
        return None
    found = token_logprobs(model, cache, token_ids, block_size)
    apart = np.abs(found.astype(np.float64) - reference.logprobs[: len(found)])
    drift = Drift(float(apart.mean()), float(apart.max()), len(found))
    if drift.is_small:
        logger.debug("canary: %.4f nats per token, at most %.3f", drift.mean, drift.worst)
        return drift
    error = QualityDrift(drift.mean, MOST_DRIFT, drift.worst, drift.num_tokens)
    if mode == "refuse":
        raise error
    logger.warning("%s", error.message)
    return drift
