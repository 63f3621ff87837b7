"""Endpoints: how the handler of a route is run, and its reply sent.

In: a request that the gate let in. Out: its answer. Three kinds: what is known at once, what has a
name of its own, what a model does. A handler knows nothing of ASGI, and stops when its client has
gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from headrace.core.frozen import frozen
from headrace.economics.call_progress import CallFacts
from headrace.economics.metered import Metered
from headrace.server.cache_control import read_cache_control
from headrace.server.call_scope import (
    CALLER,
    CLIENT_LEFT,
    HEADERS,
    METER,
    NOTES,
    REQUEST_ID,
    ROOM,
    TRACE,
    UNREAD,
)
from headrace.server.dialect import Dialect
from headrace.server.end_user_of import end_user_of
from headrace.server.error_responses import HttpRefusal
from headrace.server.first_answers import Name, Recorder, read_name, replay
from headrace.server.json_body import read_json_object
from headrace.server.kept_requests import keep_request
from headrace.server.lifetime import stopping_error
from headrace.server.patience import patience_of
from headrace.server.replies import BytesReply, EventReply, JsonReply
from headrace.server.send_reply import send_bytes, send_json
from headrace.server.services import Call, Services, Visit
from headrace.server.sse import send_events
from headrace.server.tags import tags_of
from headrace.server.task_of import task_of

Report = Callable[[Services], JsonReply]
Inference = Callable[[Services, Call], Awaitable[JsonReply | EventReply]]
Resource = Callable[[Services, Visit], Awaitable[JsonReply | EventReply | BytesReply]]


@frozen
class QueryReader:
    """A resource whose query may have `names`; with None it looks at every name itself."""

    answer: Resource
    names: Collection[str] | None = None


@runtime_checkable
class Described(Protocol):
    """An endpoint that says what it does."""

    def describe(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """By method: the handler's words, and the names that its query may have."""
        ...


class ReportEndpoint:
    """A route that answers at once from what is known."""

    def __init__(self, services: Services, report: Report) -> None:
        self._services, self._report = services, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _name_unread(self._services, scope, ())
        await send_json(self._report(self._services), send)

    def describe(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """See Described."""
        return {"GET": (self._report.__doc__ or "", ())}


class ResourceEndpoint:
    """A route about something that has a name of its own: read, made, changed or removed."""

    def __init__(self, services: Services, by_method: Mapping[str, Resource | QueryReader]) -> None:
        self._services = services
        self._by_method = {
            method: found if isinstance(found, QueryReader) else QueryReader(found, ())
            for method, found in by_method.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        visit = Visit(
            path=scope["path_params"],
            query=QueryParams(scope["query_string"]),
            headers=scope[HEADERS],
            request_id=scope[REQUEST_ID],
            caller=scope[CALLER],
            receive=receive,
            share=scope[ROOM],
        )
        # PostgreSQL has no such texts.
        if any("\0" in text for text in (*visit.path.values(), *visit.query.values())):
            raise HttpRefusal(404, "Nothing has a name with a NUL character (%00).")
        # Starlette lets HEAD in wherever there is GET; uvicorn leaves the body out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        resource = self._by_method[method]
        if resource.names is not None:
            _name_unread(services, scope, resource.names)
        reply = await resource.answer(services, visit)
        if isinstance(reply, JsonReply):
            await send_json(reply, send)
            return
        work = asyncio.create_task(self._send(reply, visit, send))
        with services.lifetime.track(work):
            scope[CLIENT_LEFT] = not await _run_until_left(work, receive)

    def describe(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """See Described."""
        return {
            method: (found.answer.__doc__ or "", sorted(found.names or ()))
            for method, found in self._by_method.items()
        }

    async def _send(self, reply: EventReply | BytesReply, visit: Visit, send: Send) -> None:
        lifetime = self._services.lifetime
        try:
            if isinstance(reply, BytesReply):
                await send_bytes(reply, send)
                return
            await send_events(
                *(reply.frames, reply.headers, send, lifetime, visit.request_id),
                failed=reply.failed,
            )
        except asyncio.CancelledError:
            if lifetime.is_closing:
                raise stopping_error() from None
            raise


class InferenceEndpoint:
    """A route that runs a model: checks readiness, reads the body, watches the client."""

    def __init__(self, services: Services, answer: Inference, dialect: Dialect) -> None:
        self._services, self._answer, self._dialect = services, answer, dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        headers = scope[HEADERS]
        _name_unread(services, scope, self._dialect.query_names)
        name = read_name(headers, scope[CALLER], scope["path"])
        facts = CallFacts(
            scope[REQUEST_ID],
            scope["path"],
            scope[CALLER],
            patience_of(headers),
            tags=tags_of(headers),
            trace=scope[TRACE],
        )
        meter = Metered(services.backend, facts, services.accounts, services.clock)
        scope[METER] = meter
        meter.begin()
        services.check_ready(may_wait=True)
        body = await read_json_object(receive, headers, services.config, scope[ROOM])
        meter.is_stream = body.get("stream") is True
        meter.task = task_of(headers, body)
        meter.cache_control = read_cache_control(headers, body)
        meter.end_user = end_user_of(body)
        call = Call(body, headers, facts.request_id, facts.caller, meter)
        scope[NOTES] = call.notes
        call.notes.keeps_tokens = services.accounts.requests is not None
        if name is None:
            work = asyncio.create_task(self._run(meter, call, send))
            await self._finish(scope, call, work, receive)
        else:
            await self._answer_once(name, scope, call, receive, send)

    def describe(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """See Described."""
        return {"POST": (self._answer.__doc__ or "", ())}

    async def _answer_once(
        self, name: Name, scope: Scope, call: Call, receive: Receive, send: Send
    ) -> None:
        """Answer a call that names itself: whoever leaves finds its answer on coming back."""
        answers, clock = self._services.first_answers, self._services.clock
        recorder = Recorder(send)
        known = await answers.begin(name, call.body, recorder, clock.monotonic_s())
        if known:
            await replay(known, send)
            return
        try:
            work = asyncio.create_task(self._run(call.meter, call, recorder.send))
            await self._finish(scope, call, work, receive, recorder)
        finally:
            answers.end(name, call.meter.has_failed, clock.monotonic_s())

    async def _finish(
        self,
        scope: Scope,
        call: Call,
        work: asyncio.Task[None],
        receive: Receive,
        recorder: Recorder | None = None,
    ) -> None:
        services = self._services
        with services.lifetime.track(work):
            try:
                scope[CLIENT_LEFT] = not await _run_until_left(work, receive, recorder)
            finally:
                if not call.meter.is_detached:
                    keep_request(services, call)

    async def _run(self, meter: Metered, call: Call, send: Send) -> None:
        lifetime = self._services.lifetime
        try:
            # Routes see no other backend than the caller's.
            reply = await self._answer(replace(self._services, backend=meter), call)
            if isinstance(reply, JsonReply):
                await send_json(reply, send)
                return
            failure = await send_events(
                *(reply.frames, reply.headers, send, lifetime, call.request_id),
                dialect=self._dialect,
                failed=reply.failed,
            )
            if failure is not None:
                meter.note_error(failure)
        except asyncio.CancelledError:
            if lifetime.is_closing:
                raise stopping_error() from None
            raise


def _name_unread(services: Services, scope: Scope, known: Collection[str]) -> None:
    """Have the answer name what of the query nobody reads.

    Raises: RequestError where the setting `unknown_fields` is error.
    """
    unread = [name for name in QueryParams(scope["query_string"]) if name not in known]
    services.warned(unread)
    scope[UNREAD] += unread


async def _run_until_left(
    work: asyncio.Task[None], receive: Receive, recorder: Recorder | None = None
) -> bool:
    """Run the work; cancel it as soon as its client disconnects. True when it was completed.

    With a recorder it goes on for whoever asks again.
    Raises: what the work raises.
    """
    tasks = [work]
    try:
        # The work goes first: what watches its client can be made while it waits.
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(_wait_for_disconnect(receive)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if recorder is not None and not work.done():
            recorder.let_go()
            await asyncio.wait((work,))
        is_complete = work.done()
        if is_complete:
            work.result()
        return is_complete
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
