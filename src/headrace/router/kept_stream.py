"""KeptStream: an answer that was given before where there is one, else a new one, which is kept.

In: a request, and what makes a new answer. Out: outputs and the Route. A new answer that was picked
is compared with another tier's when it has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from headrace.core.cache_control import CacheControl
from headrace.core.clock import Clock
from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput
from headrace.core.passing_stream import PassingStream
from headrace.core.request import GenerateRequest
from headrace.core.routing import CacheStatus, Route, Routed
from headrace.core.telemetry import CACHED_RESPONSES, MetricSink
from headrace.router.policy import Decision
from headrace.router.response_cache import ResponseCache
from headrace.router.routed_stream import RoutedStream
from headrace.router.semantic_cache import Question, SemanticCache
from headrace.router.shadow import Shadows


@frozen
class KeptParts:
    """What becomes of answers beside being sent."""

    clock: Clock
    sink: MetricSink
    cache: ResponseCache | None = None
    semantic: SemanticCache | None = None
    shadows: Shadows | None = None


class KeptStream(PassingStream, Routed):
    """See core.routing.Routed."""

    def __init__(
        self, parts: KeptParts, request: GenerateRequest, decision: Decision, new: RoutedStream
    ) -> None:
        self._parts, self._request, self._decision = parts, request, decision
        self._new = new
        self._status: CacheStatus | None = None
        self._similarity: float | None = None
        super().__init__(self._answer())

    @property
    def route(self) -> Route:
        """Where it is now."""
        if self._status not in ("hit", "semantic"):
            return replace(self._new.route, cache=self._status)
        decision, similarity = self._decision, self._similarity
        reason = "cache" if similarity is None else f"semantic cache, similarity {similarity:.3f}"
        return Route(
            decision.tier, reason, decision.task, cache=self._status, similarity=similarity
        )

    async def _answer(self) -> AsyncGenerator[RequestOutput, None]:
        cache, request = self._parts.cache, self._request
        control = request.cache_control or CacheControl()
        key = None if cache is None else cache.key_of(request)
        question = await self._read_question(key, control)
        old = self._find(key, question) if control.reads else None
        if cache is not None:
            if old is None:
                is_bypass = key is None or not (control.reads or control.writes)
                self._status = "bypass" if is_bypass else "miss"
            self._parts.sink.add(CACHED_RESPONSES, status=self._status or "miss")
        if old is not None:
            yield old
            return
        shadows = self._parts.shadows
        picked = shadows is not None and shadows.pick(request)
        is_kept = key is not None and control.writes
        begin_s = self._parts.clock.monotonic_s()
        kept: list[RequestOutput] = []
        async with aclosing(self._new) as outputs:
            async for output in outputs:
                if is_kept or picked:
                    kept.append(output)
                yield output
        if cache is not None and key is not None and is_kept:
            cache.keep(key, request, kept)
            if question is not None and self._parts.semantic is not None and cache.has(key):
                self._parts.semantic.keep(question, key)
        if shadows is not None and picked:
            duration_s = self._parts.clock.monotonic_s() - begin_s
            shadows.compare(request, self._new.route, kept, duration_s)

    async def _read_question(self, key: str | None, control: CacheControl) -> Question | None:
        """The question of a request, where answers to those that mean the same are wanted."""
        cache, semantic = self._parts.cache, self._parts.semantic
        if cache is None or semantic is None or key is None:
            return None
        if not (control.reads or control.writes) or (control.reads and self._is_known(key)):
            return None
        return await semantic.read(self._request)

    def _is_known(self, key: str) -> bool:
        cache = self._parts.cache
        return cache is not None and cache.find(key, self._request) is not None

    def _find(self, key: str | None, question: Question | None) -> RequestOutput | None:
        """An old answer to the same request, or to one that means the same."""
        cache, semantic = self._parts.cache, self._parts.semantic
        if cache is None or key is None:
            return None
        answer = cache.find(key, self._request)
        if answer is not None:
            self._status = "hit"
        elif semantic is not None and question is not None:
            found = semantic.find(question, self._request)
            if found is not None:
                answer, self._similarity = found
                self._status = "semantic"
        return answer
