"""ResponseCache: answers that were given before, for the same request of the same tenant.

In: requests, and answers as they end. Out: an old answer, or none. Exact: everything that can
change an answer is part of the key. Bounded by bytes, number and age; the least recently used goes
first. Nothing with tools is kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from headrace.core.clock import Clock
from headrace.core.frozen import frozen
from headrace.core.output import CompletionDelta, PositionLogprobs, RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing_config import CacheConfig
from headrace.router.features import wants_tools

# Of a record without its texts, and of a token with its logprobs, in bytes.
_RECORD_BYTES = 600
_POSITION_BYTES = 300


@frozen
class _Entry:
    answer: RequestOutput
    num_bytes: int
    made_at_s: float
    until_s: float


class ResponseCache:
    """Belongs to one event loop."""

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        # The least recently used first.
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """What the answers take, about."""
        return self._num_bytes

    def key_of(self, request: GenerateRequest) -> str | None:
        """Names what is asked; None: its answers are not kept."""
        if wants_tools(request) or request.pooling is not None:
            return None
        control = request.cache_control
        sampling = request.sampling
        if control is None or not control.is_seeded:
            # Drawn for this call alone.
            sampling = replace(sampling, seed=None)
        asked = replace(
            request,
            request_id="",
            call_id="",
            trace=None,
            patience_s=None,
            priority=0,
            is_background=False,
            is_whole=False,
            has_effects=False,
            prediction=None,
            cache_control=None,
            cache_key="",
            sampling=sampling,
        )
        namespace = "" if control is None else control.namespace
        return hashlib.sha256(repr((namespace, asked)).encode("utf-8", "replace")).hexdigest()

    def has(self, key: str) -> bool:
        """Whether there is an answer of that key, however old."""
        return key in self._entries

    def find(self, key: str, request: GenerateRequest) -> RequestOutput | None:
        """An answer that is young enough for the caller."""
        entry, now_s = self._entries.get(key), self._clock.monotonic_s()
        if entry is None:
            return None
        if now_s >= entry.until_s:
            self._drop(key)
            return None
        control = request.cache_control
        oldest_s = None if control is None else control.max_age_s
        if oldest_s is not None and now_s - entry.made_at_s > oldest_s:
            return None
        self._entries.move_to_end(key)
        return replace(entry.answer, request_id=request.request_id)

    def keep(self, key: str, request: GenerateRequest, outputs: Sequence[RequestOutput]) -> None:
        """Keep a whole answer, where it may be kept and fits."""
        answer = join_outputs(outputs)
        if answer is None or any(delta.tool_calls for delta in answer.deltas):
            return
        ttl_s = self._config.ttl_s
        control = request.cache_control
        if control is not None and control.ttl_s is not None:
            ttl_s = min(ttl_s, control.ttl_s)
        num_bytes = _size(answer)
        if ttl_s <= 0 or num_bytes > self._config.max_bytes:
            return
        self._drop(key)
        now_s = self._clock.monotonic_s()
        # Whoever is given it again has cost the engine no time.
        answer = replace(answer, times=None)
        self._entries[key] = _Entry(answer, num_bytes, now_s, now_s + ttl_s)
        self._num_bytes += num_bytes
        config = self._config
        while self._num_bytes > config.max_bytes or len(self._entries) > config.max_entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._num_bytes -= entry.num_bytes


def join_outputs(outputs: Sequence[RequestOutput]) -> RequestOutput | None:
    """All outputs of an answer as one; None where it has not ended."""
    if not outputs or not outputs[-1].is_finished:
        return None
    deltas: dict[int, list[CompletionDelta]] = {}
    for output in outputs:
        for delta in output.deltas:
            deltas.setdefault(delta.index, []).append(delta)
    joined = tuple(_join(deltas[index]) for index in sorted(deltas))
    if any(delta.finish_reason is None for delta in joined):
        return None
    first = outputs[0]
    return replace(
        outputs[-1],
        deltas=joined,
        prompt_token_ids=first.prompt_token_ids,
        prompt_logprobs=first.prompt_logprobs,
        prompt_text=first.prompt_text,
        prompt_tokens=first.prompt_tokens,
    )


def _join(deltas: Sequence[CompletionDelta]) -> CompletionDelta:
    positions: list[PositionLogprobs] = []
    for delta in deltas:
        positions += delta.logprobs or ()
    has_positions = any(delta.logprobs is not None for delta in deltas)
    return CompletionDelta(
        deltas[0].index,
        "".join(delta.text for delta in deltas),
        tuple(token for delta in deltas for token in delta.token_ids),
        tuple(positions) if has_positions else None,
        deltas[-1].finish_reason,
        deltas[-1].stop_reason,
        "".join(delta.reasoning for delta in deltas),
        tuple(call for delta in deltas for call in delta.tool_calls),
    )


def _size(answer: RequestOutput) -> int:
    """Bytes that an answer takes, about and rather too many."""
    total = _RECORD_BYTES + 40 * len(answer.prompt_token_ids or ())
    total += 4 * len(answer.prompt_text or "") + 100 * len(answer.prompt_tokens or ())
    total += _POSITION_BYTES * len(answer.prompt_logprobs or ())
    for delta in answer.deltas:
        total += _RECORD_BYTES + 4 * (len(delta.text) + len(delta.reasoning))
        total += 40 * len(delta.token_ids)
        total += sum(_POSITION_BYTES * (1 + len(p.top)) for p in delta.logprobs or ())
    return total
