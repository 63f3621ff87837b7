"""Upstream: another server as a Backend.

In: requests for its models. Out: its answers as RequestOutputs. Asks again while an answer has not
begun, with chance and growing waits; leaves a server alone that fails and fails. Whatever it asks
is streamed, so that leaving stops the work there. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from headrace.client.anthropic_wire import AnthropicWire
from headrace.client.backoff import Uniform, backoff_s, read_retry_after
from headrace.client.circuit_breaker import CircuitBreaker, Permit
from headrace.client.connection_pool import ConnectionPool, HttpExchange, PoolFull
from headrace.client.endpoint import parse_endpoint
from headrace.client.event_stream import EventStreamDecoder, EventTooLong
from headrace.client.http_connection import ConnectionFailed, WaitedTooLong
from headrace.client.openai_wire import OpenAIWire
from headrace.client.upstream_errors import UpstreamWords
from headrace.client.wire_format import AnswerReader, ErrorEvent, Malformed, WireFormat
from headrace.core.backend import Health, ModelInfo, ModelText
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import (
    CapacityError,
    ModelNotFound,
    RequestError,
    UnsupportedParameter,
    UpstreamError,
    UpstreamTimeout,
)
from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput
from headrace.core.passing_stream import PassingStream
from headrace.core.request import GenerateRequest
from headrace.core.routing import Retried
from headrace.core.upstreams import UpstreamConfig, UpstreamKind

_log = logging.getLogger(__name__)

WIRES: dict[UpstreamKind, Callable[[], WireFormat]] = {
    "openai": OpenAIWire,
    "anthropic": AnthropicWire,
}
MAX_ERROR_BYTES = 65536
# After the last event the end of the body is a few bytes away.
DRAIN_S = 0.25
# Anthropic's status for "overloaded".
_OVERLOADED = 529

Sleep = Callable[[float], Awaitable[None]]


@frozen
class _Question:
    """A request in the words of the API."""

    request: GenerateRequest
    path: str
    body: bytes
    seed: int | None


class Upstream:
    """See core.backend.Backend. `close` it when it is no longer asked.

    `key` is the secret that `config.api_key` names; it is in no error and in no line of the log.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        key: str | None = None,
        *,
        clock: Clock | None = None,
        sleep: Sleep = asyncio.sleep,
        uniform: Uniform = random.uniform,
    ) -> None:
        """Raises: ConfigError for an address that is none."""
        where = f"upstreams.{config.name}"
        endpoint = parse_endpoint(config.url, f"{where}.url", f"{where}.api_key")
        self.config, self._clock = config, clock or SystemClock()
        self._sleep, self._uniform = sleep, uniform
        self._wire = WIRES[config.kind]()
        self._words = UpstreamWords(config.name, key)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            **self._wire.headers(key),
        }
        self._pool = ConnectionPool(
            endpoint, config.max_connections, config.connect_timeout_s, self._clock
        )
        self.breaker = CircuitBreaker(
            config.breaker_failures, config.breaker_cooldown_s, self._clock
        )
        self._infos = tuple(map(self._info, config.models))

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return self._infos

    def text(self, model: str) -> ModelText:
        """An upstream tells nothing of its tokens. Raises: UnsupportedParameter."""
        raise UnsupportedParameter("model", f"{model!r} runs elsewhere, and its tokens there.")

    def health(self) -> Health:
        """Whether it would be asked now."""
        if self.breaker.can_admit:
            return Health("ready")
        detail = f"{self.config.name} failed {self.config.breaker_failures} times in a row"
        return Health("stalled", detail, is_recovering=True)

    def close(self) -> None:
        """Hang up. Answers in progress go on to their end."""
        self._pool.close()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend. Returns when the server has begun to answer.

        Raises: RequestError for what it refuses or has no word for; UpstreamError.
        """
        if request.model not in self.config.models:
            raise ModelNotFound(request.model, self.config.models)
        body = self._wire.body(request, self.config)
        raw = json.dumps(body, separators=(",", ":"), allow_nan=False)
        path, seed = self._wire.path(request), body.get("seed")
        question = _Question(request, path, raw.encode("ascii"), seed)
        asking = _Asking(self, question)
        await asking.begin()
        return asking

    def _info(self, model: str) -> ModelInfo:
        is_openai = self.config.kind == "openai"
        return ModelInfo(
            name=model,
            max_model_len=self.config.max_model_len,
            created=int(self._clock.unix_s()),
            root=model,
            template_variables=frozenset({"reasoning_effort", "verbosity"} if is_openai else ()),
            reads_message_names=is_openai,
            has_reasoning=True,
            provider=self.config.charged_as,
            max_retries=self.config.max_retries,
        )

    async def admit(self, patience_s: float | None) -> Permit:
        """Wait for what a probe finds, where there is one. Raises: UpstreamError."""
        breaker = self.breaker
        permit = breaker.admit()
        wait_s = breaker.probing_for_s
        if permit is None and wait_s and breaker.num_waiting < self.config.max_connections:
            await breaker.wait_for_probe(wait_s if patience_s is None else min(wait_s, patience_s))
            permit = breaker.admit()
        if permit is None:
            wait_s = breaker.open_for_s
            raise self._words.error(
                "failed several times in a row and is left alone for a while",
                retryable=True,
                retry_after_s=max(wait_s, 1.0),
            )
        return permit

    async def ask(self, question: _Question) -> HttpExchange:
        """Send it once. Raises: RequestError, UpstreamError."""
        config, trace = self.config, question.request.trace
        headers = self._headers
        if trace is not None:
            headers = headers | {"traceparent": trace.child().traceparent}
        try:
            exchange = await self._pool.ask(
                question.path, headers, question.body, config.first_byte_timeout_s
            )
        except PoolFull:
            most = config.max_connections
            raise CapacityError(
                f"The upstream {config.name} has {most} requests in progress, as many as may be."
            ) from None
        except WaitedTooLong as error:
            raise self._words.timeout(f"failed: {error}", was_asked=error.was_asked) from None
        except ConnectionFailed as error:
            raise self._words.error(
                f"failed: {error}", retryable=True, was_asked=error.was_asked
            ) from None
        try:
            await self._check(exchange)
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def _check(self, exchange: HttpExchange) -> None:
        """Raises: RequestError, UpstreamError unless a stream of events has begun."""
        head = exchange.head
        if head.status != 200:
            text = await exchange.text(MAX_ERROR_BYTES, self.config.idle_timeout_s)
            retry_after_s = read_retry_after(head.headers, self._clock.unix_s())
            raise self._words.refusal(head.status, text, retry_after_s)
        kind = head.headers.get("content-type", "")
        if not kind.lower().startswith("text/event-stream"):
            raise self._words.broken(f"answered with {kind[:80]!r} in place of a stream of events")

    async def read(
        self, exchange: HttpExchange, reader: AnswerReader
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of an answer. Raises: UpstreamError."""
        decoder, idle_s = EventStreamDecoder(), self.config.idle_timeout_s
        try:
            while not reader.is_over:
                piece = await exchange.piece(idle_s)
                if piece is None:
                    break
                for data in decoder.feed(piece):
                    if not reader.is_over and (output := reader.read(data)) is not None:
                        yield output
            yield reader.end()
        except WaitedTooLong as error:
            raise self._words.timeout(f"failed: {error}", was_asked=True) from None
        except ErrorEvent as error:
            raise self._words.error(
                f"ended its stream with an error: {error}", retryable=error.is_busy, was_asked=True
            ) from None
        except (ConnectionFailed, Malformed, EventTooLong) as error:
            raise self._words.broken(f"failed: {error}") from None
        # So that the connection can be used again.
        await exchange.text(1024, DRAIN_S)

    async def wait_after(self, num_failures: int, error: UpstreamError) -> None:
        """Wait before the next try. Raises: the error, where that is not worth it."""
        wait_s = backoff_s(num_failures, error.retry_after_s, self._uniform)
        if wait_s > self.config.max_retry_wait_s:
            raise error
        _log.info("%s; trying again in %.2f s", error.message, wait_s)
        await self._sleep(wait_s)

    def reader(self, question: _Question) -> AnswerReader:
        """What reads the answer to a question."""
        return self._wire.reader(question.request, question.seed)


class _Asking(PassingStream, Retried):
    """One request until it is answered: tries, and the stream of the one that answers."""

    def __init__(self, upstream: Upstream, question: _Question) -> None:
        self._upstream, self._question = upstream, question
        self._exchange: HttpExchange | None = None
        self._permit: Permit | None = None
        self._num_failures = 0
        super().__init__(self._answer())

    async def begin(self) -> HttpExchange:
        """Ask until an answer begins. Raises: RequestError, CapacityError, UpstreamError."""
        while True:
            try:
                self._permit = await self._upstream.admit(self._question.request.patience_s)
            except UpstreamError as error:
                error.num_in_doubt = self.num_in_doubt
                raise
            try:
                self._exchange = await self._upstream.ask(self._question)
                return self._exchange
            except UpstreamError as error:
                await self._fail(error)
            except RequestError:
                # A refusal is an answer.
                self._upstream.breaker.succeed()
                raise
            except BaseException:
                self._leave()
                raise

    async def _answer(self) -> AsyncGenerator[RequestOutput, None]:
        upstream, exchange = self._upstream, self._exchange
        while True:
            num_tokens: int | None = None
            reader = upstream.reader(self._question)
            try:
                # None only for who never began.
                if exchange is not None:
                    async with aclosing(upstream.read(exchange, reader)) as outputs:
                        async for output in outputs:
                            if num_tokens is None:
                                self._permit = None
                                upstream.breaker.begin_answer()
                            num_tokens = output.usage.output_tokens
                            yield output
                upstream.breaker.succeed()
                return
            except UpstreamError as error:
                self._hang_up()
                if num_tokens is not None:
                    error.tokens_sent, error.num_in_doubt = num_tokens, self.num_in_doubt
                    upstream.breaker.fail()
                    raise
                await self._fail(error)
            exchange = await self.begin()

    async def _fail(self, error: UpstreamError) -> None:
        """Count a failed try and wait for the next. Raises: the error when there is none."""
        self._num_failures += 1
        self.num_in_doubt += error.was_asked
        error.num_in_doubt = self.num_in_doubt
        self._permit = None
        # Busy is not broken, and neither is one that says no.
        if error.status is not None and (error.status < 500 or error.status == _OVERLOADED):
            self._upstream.breaker.begin_answer()
        else:
            self._upstream.breaker.fail()
        # What waited in vain may be answered, and billed, all the same.
        is_in_doubt = isinstance(error, UpstreamTimeout) and error.was_asked
        is_last = self._num_failures > self._upstream.config.max_retries
        if is_last or is_in_doubt or not error.retryable:
            raise error
        await self._upstream.wait_after(self._num_failures, error)

    def _hang_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _leave(self) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            self._upstream.breaker.give_up(permit)
        self._hang_up()
