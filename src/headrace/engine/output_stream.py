"""From the thread that makes outputs to the task that reads them.

Mailbox: what a reader has not taken yet, as one merged output, so a slow reader costs no queue and
delays nobody. OutputStream: the reader's end, an async generator; closing it, cancelling its reader
or dropping it aborts the request. Knows nothing of tokens and steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from threading import RLock
from types import TracebackType
from typing import Any

from headrace.core.errors import HeadraceError
from headrace.core.output import CompletionDelta, RequestOutput, join_calls


class Mailbox:
    """One request's unread output. Written by the output thread, read in `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ready = asyncio.Event()
        self._lock = RLock()
        self._pending: RequestOutput | None = None
        self._error: HeadraceError | None = None

    def put(self, output: RequestOutput) -> None:
        """Add to what is unread. The caller wakes the reader with `wake_readers`."""
        with self._lock:
            self._pending = merge(self._pending, output) if self._pending else output

    def fail(self, error: HeadraceError) -> None:
        """End the stream with an error, after what is unread."""
        with self._lock:
            self._error = self._error or error

    def take(self) -> RequestOutput | None:
        """Take what is unread; None when there is nothing.

        Raises: the stream's error, once all is read.
        """
        with self._lock:
            output, self._pending = self._pending, None
            if output is None and self._error is not None:
                raise self._error
            if self._error is None:
                self.ready.clear()
            return output


def wake_readers(mailboxes: Iterable[Mailbox]) -> None:
    """Wake the readers of mailboxes, with one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Mailbox]] = {}
    for mailbox in mailboxes:
        by_loop.setdefault(mailbox.loop, []).append(mailbox)
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_all, group)
        except RuntimeError:  # the loop is closed, and its readers are gone with it
            continue


def _set_all(mailboxes: Iterable[Mailbox]) -> None:
    for mailbox in mailboxes:
        mailbox.ready.set()


class OutputStream(AsyncGenerator[RequestOutput, None]):
    """Outputs of a request until the finished one. `abort` is called at most once.

    A class, because a generator function that was never started runs no `finally`.
    """

    def __init__(self, mailbox: Mailbox, abort: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._abort = abort
        self._is_over = False

    async def __anext__(self) -> RequestOutput:
        return await self.asend(None)

    async def asend(self, value: None) -> RequestOutput:
        """Wait for the next output. Cancelling the wait aborts the request."""
        if self._is_over:
            raise StopAsyncIteration
        try:
            output = await self._read()
        except BaseException:
            self._close()
            raise
        if output is None:
            raise StopAsyncIteration
        self._is_over = output.is_finished
        return output

    async def athrow(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        """End the stream as if its body had raised."""
        self._close()
        if isinstance(kind, BaseException):
            raise kind
        raise value if isinstance(value, BaseException) else kind()

    async def aclose(self) -> None:
        """Stop reading and abort the request. Calling it twice is harmless."""
        self._close()

    def __del__(self) -> None:
        self._close()

    async def _read(self) -> RequestOutput | None:
        while not self._is_over:
            await self._mailbox.ready.wait()
            output = self._mailbox.take()
            if output is not None:
                return output
        return None

    def _close(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._mailbox.ready.set()
            self._abort()


def merge(first: RequestOutput, second: RequestOutput) -> RequestOutput:
    """Join two outputs that follow each other into one with the same content."""
    deltas = {delta.index: delta for delta in first.deltas}
    for delta in second.deltas:
        known = deltas.get(delta.index)
        deltas[delta.index] = delta if known is None else _merge_deltas(known, delta)
    prompt_logprobs = first.prompt_logprobs
    return replace(
        second,
        deltas=tuple(deltas.values()),
        prompt_token_ids=first.prompt_token_ids or second.prompt_token_ids,
        prompt_logprobs=second.prompt_logprobs if prompt_logprobs is None else prompt_logprobs,
        prompt_text=first.prompt_text or second.prompt_text,
        prompt_tokens=first.prompt_tokens or second.prompt_tokens,
        resolved=second.resolved or first.resolved,
    )


def _merge_deltas(first: CompletionDelta, second: CompletionDelta) -> CompletionDelta:
    logprobs = first.logprobs
    if second.logprobs is not None:
        logprobs = (logprobs or ()) + second.logprobs
    return replace(
        second,
        text=first.text + second.text,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        reasoning=first.reasoning + second.reasoning,
        tool_calls=join_calls((*first.tool_calls, *second.tool_calls)),
    )
