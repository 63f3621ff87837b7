"""The ASGI app: the envelope around every route.

In: Services. Out: an ASGI app. The envelope lets callers in, gives every answer a request id, turns
every exception into an error body, closes the account of a call and writes its line of the log.
Routes are `routes`; how their handlers are run is `endpoints`. Knows no dialect.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from headrace.core.errors import HeadraceError
from headrace.core.tracing import TraceContext, begin_trace, parse_traceparent
from headrace.economics.usage_row import UsageRow
from headrace.server.answer_head import AnswerHead
from headrace.server.auth import admit
from headrace.server.batch_worker import BatchWorker
from headrace.server.body_room import BodyShare
from headrace.server.call_log import how_it_ended, request_fields
from headrace.server.call_scope import (
    CALLER,
    CLIENT_LEFT,
    HEADERS,
    METER,
    REQUEST_ID,
    ROOM,
    TRACE,
    UNREAD,
)
from headrace.server.error_responses import HttpRefusal, describe_error, is_our_fault
from headrace.server.http_metrics import HttpMetrics
from headrace.server.origins import check_host, preflight_headers
from headrace.server.replies import JsonReply
from headrace.server.request_headers import read_headers
from headrace.server.request_ids import header_request_id
from headrace.server.routes import BATCH_ENDPOINTS, dialect_of, make_routes
from headrace.server.send_reply import send_json
from headrace.server.services import Services
from headrace.server.unserved_routes import hint_at

_log = logging.getLogger(__name__)

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _no_lifespan() -> AsyncIterator[None]:
    yield


class HeadraceApp:
    """The envelope: request ids, errors, timing. `services.lifetime` drains it.

    `lifespan` surrounds the time in which requests are taken. `start_error` is why it did not
    begin, where that is known.
    """

    def __init__(self, services: Services, lifespan: Lifespan = _no_lifespan) -> None:
        self.services = services
        self.batch_worker = BatchWorker(services, BATCH_ENDPOINTS)
        self._http = HttpMetrics(services.metrics, services.clock)
        self.start_error: HeadraceError | None = None

        @asynccontextmanager
        async def run_lifespan(_: object) -> AsyncIterator[None]:
            is_started = False
            try:
                async with lifespan():
                    is_started = True
                    self.batch_worker.start()
                    try:
                        yield
                    finally:
                        await self.batch_worker.stop()
                    # No connection is left: what still runs has nobody who waits for it.
                    await services.runs.end(services.lifetime)
            except HeadraceError as error:
                if not is_started:
                    self.start_error = error
                raise

        self._router = Router(
            make_routes(services), redirect_slashes=False, default=_no_route, lifespan=run_lifespan
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        else:
            await self._router(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin_s = self._http.begin()
        headers = scope[HEADERS] = read_headers(scope)
        named = headers.get("x-request-id")
        request_id = header_request_id(named)
        scope[UNREAD] = ["x-request-id"] if named and named != request_id else []
        services = self.services
        scope[ROOM] = share = BodyShare(services.bodies, services.config, services.clock)
        scope[REQUEST_ID], scope[TRACE] = request_id, self._trace(headers)
        dialect = dialect_of(scope["path"], headers)
        head = AnswerHead(scope, send, dialect, self.services, self._http)
        try:
            await self._let_in(scope, receive, head.send)
        except ClientDisconnect:
            scope[CLIENT_LEFT] = True
        except Exception as error:
            if METER in scope:
                scope[METER].note_error(error)
            if is_our_fault(error):
                _log.exception("request %s failed", request_id)
            if not head.status:
                reply = describe_error(error, request_id)
                body = dialect.error_body(reply, request_id)
                # The rest of a body that made way is not waited for.
                close = {"Connection": "close"} if share.has_made_way else {}
                answer = JsonReply(body, reply.status, {**reply.headers, **close})
                await send_json(answer, head.send)
        finally:
            share.give_back()
            row = _close(scope, head.status or None)
            spent_s = self._http.end(scope, head.status or None, begin_s)
            _write_line(scope, head.status, row, spent_s)

    def _trace(self, headers: Mapping[str, str]) -> TraceContext | None:
        """The span of a call; None where nothing is traced, neither here nor by the caller."""
        config = self.services.config
        caller = parse_traceparent(headers.get("traceparent"), headers.get("tracestate"))
        if caller is None and config.otlp_endpoint is None:
            return None
        return begin_trace(caller, config.trace_sample_ratio)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser that asks first, or pass the gate and answer."""
        services, headers = self.services, scope[HEADERS]
        allowed = preflight_headers(scope["method"], headers, services.config)
        if allowed is not None:
            await send_json(JsonReply(b"", 204, allowed), send)
            return
        keys = services.accounts.keys
        check_host(headers, services.config, keys.is_open and not services.config.require_key)
        scope[CALLER] = admit(scope["path"], headers, keys, services.config)
        await self._router(scope, receive, send)


def _close(scope: Scope, status: int | None) -> UsageRow | None:
    """End the account of a call, unless it goes on after its answer."""
    meter = scope.get(METER)
    if meter is None or meter.is_detached:
        return None
    row: UsageRow = meter.close(status, bool(scope.get(CLIENT_LEFT)))
    return row


def _write_line(scope: Scope, status: int, row: UsageRow | None, spent_s: float) -> None:
    """Say in the log how a request ended."""
    # Probes and scrapers come every few seconds.
    level = logging.INFO if scope["method"] == "POST" or status >= 400 else logging.DEBUG
    if not _log.isEnabledFor(level):
        return
    ended = how_it_ended(scope, status, row)
    shown = (scope["method"], scope["path"], ended, spent_s, scope[REQUEST_ID])
    fields = request_fields(scope, status, row) | {"duration_s": round(spent_s, 4)}
    _log.log(level, "%s %r %s %.3f s %s", *shown, extra={"fields": fields})


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    shown = path if len(path) <= 120 else f"{path[:117]}..."
    hint = hint_at(path)
    raise HttpRefusal(404, f"There is no route {shown!r}. {hint}")
