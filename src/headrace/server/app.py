"""The ASGI app: routes, and the envelope around each of them.

In: Services. Out: an ASGI app. The envelope lets callers in, gives every answer a
request id, turns every exception into an error body, and stops a request whose client has gone.
Knows no dialect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from headrace.core.tracing import TraceContext, begin_trace, parse_traceparent
from headrace.economics.metered import CallFacts, Metered
from headrace.economics.usage_row import UsageRow
from headrace.server.adapter_routes import load_adapter, unload_adapter
from headrace.server.anthropic_dialect import ANTHROPIC, VERSION_HEADER
from headrace.server.anthropic_messages import count_message_tokens, create_message
from headrace.server.auth import admit
from headrace.server.batch_worker import BatchWorker
from headrace.server.batches import BatchRoutes
from headrace.server.cache_control import read_cache_control
from headrace.server.call_log import call_fields
from headrace.server.debug_requests import report_requests
from headrace.server.dialect import OPENAI, Dialect
from headrace.server.error_responses import HttpRefusal, describe_error, is_our_fault
from headrace.server.files import (
    create_file,
    delete_file,
    list_files,
    retrieve_content,
    retrieve_file,
)
from headrace.server.first_answers import Name, Recorder, read_name, replay
from headrace.server.health import report_health, report_load, report_metrics, report_version
from headrace.server.http_metrics import HttpMetrics, NamedRoute
from headrace.server.json_body import read_json_object
from headrace.server.kept_requests import keep_request
from headrace.server.lifetime import stopping_error
from headrace.server.model_control import is_sleeping, reload_model, sleep, wake_up
from headrace.server.openai_chat import create_chat_completion
from headrace.server.openai_completions import create_completion
from headrace.server.openai_embeddings import create_embeddings
from headrace.server.openai_models import list_models, retrieve_model
from headrace.server.openai_responses import count_input_tokens, create_response
from headrace.server.origins import check_host, cors_headers, preflight_headers
from headrace.server.pair_scores import create_classes, create_ranking, create_scores
from headrace.server.patience import patience_of
from headrace.server.replies import WARNINGS, BytesReply, EventReply, JsonReply
from headrace.server.request_ids import header_request_id
from headrace.server.route_headers import route_headers
from headrace.server.send_reply import send_bytes, send_json
from headrace.server.services import Call, Services, Visit
from headrace.server.sse import send_events
from headrace.server.stored_responses import (
    cancel_response,
    delete_response,
    list_input_items,
    retrieve_response,
)
from headrace.server.tags import tags_of
from headrace.server.task_of import task_of
from headrace.server.unserved_routes import hint_at
from headrace.server.vllm_invocations import invoke
from headrace.server.vllm_tokenizer import detokenize, report_tokenizer, tokenize

_log = logging.getLogger(__name__)

_REQUEST_ID, _CLIENT_LEFT = "headrace.request_id", "headrace.client_left"
_CALLER, _METER, _TRACE = "headrace.caller", "headrace.meter", "headrace.trace"
_IGNORED = "headrace.ignored"

Report = Callable[[Services], JsonReply]
Inference = Callable[[Services, Call], Awaitable[JsonReply | EventReply]]
Resource = Callable[[Services, Visit], Awaitable[JsonReply | EventReply | BytesReply]]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]

# What the lines of a batch may ask.
BATCH_ENDPOINTS: dict[str, Inference] = {
    "/v1/chat/completions": create_chat_completion,
    "/v1/completions": create_completion,
    "/v1/embeddings": create_embeddings,
    "/v1/responses": create_response,
}


@asynccontextmanager
async def _no_lifespan() -> AsyncIterator[None]:
    yield


class HeadraceApp:
    """The envelope: request ids, errors, timing. `services.lifetime` drains it.

    `lifespan` surrounds the time in which requests are taken.
    """

    def __init__(self, services: Services, lifespan: Lifespan = _no_lifespan) -> None:
        self.services = services
        self.batch_worker = BatchWorker(services, BATCH_ENDPOINTS)
        self._http = HttpMetrics(services.metrics, services.clock)

        @asynccontextmanager
        async def run_lifespan(_: object) -> AsyncIterator[None]:
            async with lifespan():
                self.batch_worker.start()
                try:
                    yield
                finally:
                    await self.batch_worker.stop()
                # No connection is left: what still runs has nobody who waits for it.
                await services.runs.end(services.lifetime)

        self._router = Router(
            _routes(services), redirect_slashes=False, default=_no_route, lifespan=run_lifespan
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        else:
            await self._router(scope, receive, send)

    def _trace(self, headers: Headers) -> TraceContext | None:
        """The span of a call; None where nothing is traced, neither here nor by the caller."""
        config = self.services.config
        caller = parse_traceparent(headers.get("traceparent"), headers.get("tracestate"))
        if caller is None and config.otlp_endpoint is None:
            return None
        return begin_trace(caller, config.trace_sample_ratio)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock, status = self.services.clock, 0
        begin_s = self._http.begin()
        headers = Headers(scope=scope)
        load_format = headers.get("endpoint-load-metrics-format")
        request_id = header_request_id(headers.get("x-request-id"))
        scope[_REQUEST_ID] = request_id
        trace = scope[_TRACE] = self._trace(headers)
        dialect = _dialect_of(scope["path"], headers)
        fixed = [
            (b"x-request-id", request_id.encode("latin-1")),
            (b"x-content-type-options", b"nosniff"),
        ]
        if trace is not None:
            fixed.append((b"traceresponse", trace.traceparent.encode("latin-1")))
        fixed += _encoded(cors_headers(headers, self.services.config))

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                scope[_IGNORED] = _ignored_names(message)
                limits = scope[_METER].limit_headers() if _METER in scope else {}
                levels = scope[_METER].limit_levels() if _METER in scope else ()
                limits |= self._http.load_headers(load_format)
                limits |= dialect.headers(request_id, levels, clock.unix_s())
                if _METER in scope:
                    limits |= scope[_METER].cost_headers() | scope[_METER].budget_headers()
                    limits |= route_headers(scope[_METER].route())
                message["headers"] = [*message.get("headers", ()), *fixed, *_encoded(limits)]
            await send(message)

        try:
            services = self.services
            allowed = preflight_headers(scope["method"], headers, services.config)
            if allowed is not None:
                await send_json(JsonReply(b"", 204, allowed), send_with_headers)
                return
            keys = services.accounts.keys
            check_host(headers, services.config, keys.is_open and not services.config.require_key)
            scope[_CALLER] = admit(scope["path"], headers, keys, services.config)
            await self._router(scope, receive, send_with_headers)
        except ClientDisconnect:
            scope[_CLIENT_LEFT] = True
        except Exception as error:
            if _METER in scope:
                scope[_METER].note_error(error)
            if is_our_fault(error):
                _log.exception("request %s failed", request_id)
            if not status:
                await _send_error(error, request_id, dialect, send_with_headers)
        finally:
            row = _close(scope, status or None)
            spent_s = self._http.end(scope, status or None, begin_s)
            # Probes and scrapers come every few seconds.
            level = logging.INFO if scope["method"] == "POST" or status >= 400 else logging.DEBUG
            ended = _how_it_ended(scope, status, row)
            path = scope["path"]
            if _log.isEnabledFor(level):
                shown = (scope["method"], path, ended, spent_s, request_id)
                fields = _fields(scope, status, row) | {"duration_s": round(spent_s, 4)}
                _log.log(level, "%s %r %s %.3f s %s", *shown, extra={"fields": fields})


def _close(scope: Scope, status: int | None) -> UsageRow | None:
    """End the account of a call, unless it goes on after its answer."""
    meter = scope.get(_METER)
    if meter is None or meter.is_detached:
        return None
    row: UsageRow = meter.close(status, bool(scope.get(_CLIENT_LEFT)))
    return row


def _how_it_ended(scope: Scope, status: int, row: UsageRow | None) -> str:
    """The status; where the answer broke off after it, by whom or why; what had no effect."""
    ignored = scope.get(_IGNORED)
    note = f" (ignored: {ignored})" if ignored else ""
    if scope.get(_CLIENT_LEFT):
        return f"{status or '-'} client left{note}"
    if status == 200 and row is not None and row.error:
        return f"200 broken off: {row.error}{note}"
    return f"{status or '-'}{note}"


def _ignored_names(start: Message) -> str:
    """Fields that had no effect, as the head of an answer names them."""
    values = (value for name, value in start.get("headers", ()) if name == WARNINGS.encode())
    return str(next(values, b""), "latin-1")


def _fields(scope: Scope, status: int, row: UsageRow | None) -> dict[str, object]:
    """What a line of the log says of a request."""
    fields: dict[str, object] = {
        "request_id": scope[_REQUEST_ID],
        "method": scope["method"],
        "path": scope["path"],
        "status": status or None,
        "client_left": bool(scope.get(_CLIENT_LEFT)),
    }
    if scope.get(_IGNORED):
        fields["ignored_fields"] = scope[_IGNORED].split(",")
    if scope[_TRACE] is not None:
        fields["trace_id"] = scope[_TRACE].trace_id
    caller = scope.get(_CALLER)
    if caller is not None and caller.key_id is not None:
        fields |= {"tenant": caller.tenant, "key_id": caller.key_id}
    return fields if row is None else fields | call_fields(row)


async def _send_error(error: Exception, request_id: str, dialect: Dialect, send: Send) -> None:
    reply = describe_error(error, request_id)
    body = dialect.error_body(reply, request_id)
    await send_json(JsonReply(body, reply.status, reply.headers), send)


def _dialect_of(path: str, headers: Container[str] = ()) -> Dialect:
    """Whose words errors and headers of a path use, whether or not there is such a route."""
    is_anthropic = f"{path}/".startswith("/v1/messages/") or (
        VERSION_HEADER in headers and f"{path}/".startswith("/v1/models/")
    )
    return ANTHROPIC if is_anthropic else OPENAI


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    shown = path if len(path) <= 120 else f"{path[:117]}..."
    hint = hint_at(path)
    raise HttpRefusal(404, f"There is no route {shown!r}. {hint}")


def _routes(services: Services) -> list[Route]:
    """Every route; a new dialect is a line here."""
    reports: tuple[tuple[str, Report], ...] = (
        ("/health", report_health),
        ("/version", report_version),
        ("/load", report_load),
        ("/metrics", report_metrics),
        ("/tokenizer_info", report_tokenizer),
    )
    inference: tuple[tuple[str, Inference], ...] = (
        ("/v1/chat/completions", create_chat_completion),
        ("/v1/completions", create_completion),
        ("/v1/embeddings", create_embeddings),
        *((path, create_scores) for path in ("/score", "/v1/score")),
        *((path, create_ranking) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
        ("/classify", create_classes),
        ("/tokenize", tokenize),
        ("/detokenize", detokenize),
        ("/invocations", invoke),
        ("/v1/messages", create_message),
        ("/v1/messages/count_tokens", count_message_tokens),
        ("/v1/responses", create_response),
        ("/v1/responses/input_tokens", count_input_tokens),
    )
    # By method: what is kept under a name, and what begins work without waiting for it.
    batches = BatchRoutes(BATCH_ENDPOINTS)
    resources: tuple[tuple[str, Mapping[str, Resource]], ...] = (
        ("/v1/responses/{id}", {"GET": retrieve_response, "DELETE": delete_response}),
        ("/v1/responses/{id}/cancel", {"POST": cancel_response}),
        ("/v1/responses/{id}/input_items", {"GET": list_input_items}),
        ("/sleep", {"POST": sleep}),
        ("/wake_up", {"POST": wake_up}),
        ("/is_sleeping", {"GET": is_sleeping}),
        ("/debug/requests", {"GET": report_requests}),
        ("/v1/models", {"GET": list_models}),
        ("/v1/models/{name:path}", {"GET": retrieve_model}),
        ("/v1/models/{name:path}/reload", {"POST": reload_model}),
        ("/v1/load_lora_adapter", {"POST": load_adapter}),
        ("/v1/unload_lora_adapter", {"POST": unload_adapter}),
        ("/v1/files", {"GET": list_files, "POST": create_file}),
        ("/v1/files/{id}", {"GET": retrieve_file, "DELETE": delete_file}),
        ("/v1/files/{id}/content", {"GET": retrieve_content}),
        ("/v1/batches", {"GET": batches.list, "POST": batches.create}),
        ("/v1/batches/{id}", {"GET": batches.retrieve}),
        ("/v1/batches/{id}/cancel", {"POST": batches.cancel}),
    )
    return [
        *(NamedRoute(path, _Report(services, report), methods=["GET"]) for path, report in reports),
        NamedRoute("/ping", _Report(services, report_health), methods=["GET", "POST"]),
        *(
            NamedRoute(path, _Inference(services, make, _dialect_of(path)), methods=["POST"])
            for path, make in inference
        ),
        *(NamedRoute(path, _Resource(services, by), methods=list(by)) for path, by in resources),
    ]


class _Report:
    """A route that answers at once from what is known."""

    def __init__(self, services: Services, report: Report) -> None:
        self._services, self._report = services, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(self._report(self._services), send)


class _Resource:
    """A route about something that has a name of its own: read, made, changed or removed."""

    def __init__(self, services: Services, by_method: Mapping[str, Resource]) -> None:
        self._services = services
        self._by_method = by_method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        visit = Visit(
            path=scope["path_params"],
            query=QueryParams(scope["query_string"]),
            headers=Headers(scope=scope),
            request_id=scope[_REQUEST_ID],
            caller=scope[_CALLER],
            receive=receive,
        )
        # Starlette lets HEAD in wherever there is GET; uvicorn leaves the body out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        reply = await self._by_method[method](services, visit)
        if isinstance(reply, JsonReply):
            await send_json(reply, send)
            return
        work = asyncio.create_task(self._send(reply, visit, send))
        with services.lifetime.track(work):
            scope[_CLIENT_LEFT] = not await _run_until_left(work, receive)

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


class _Inference:
    """A route that runs a model: checks readiness, reads the body, watches the client."""

    def __init__(self, services: Services, answer: Inference, dialect: Dialect) -> None:
        self._services, self._answer, self._dialect = services, answer, dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        headers = Headers(scope=scope)
        name = read_name(headers, scope[_CALLER], scope["path"])
        facts = CallFacts(
            scope[_REQUEST_ID],
            scope["path"],
            scope[_CALLER],
            patience_of(headers),
            tags=tags_of(headers),
            trace=scope[_TRACE],
        )
        meter = Metered(services.backend, facts, services.accounts, services.clock)
        scope[_METER] = meter
        meter.begin()
        services.check_ready(may_wait=True)
        body = await read_json_object(receive, headers, services.config)
        meter.is_stream = body.get("stream") is True
        meter.task = task_of(headers, body)
        meter.cache_control = read_cache_control(headers, body)
        call = Call(body, headers, facts.request_id, facts.caller, meter)
        call.notes.keeps_tokens = services.accounts.requests is not None
        if name is None:
            work = asyncio.create_task(self._run(meter, call, send))
            await self._finish(scope, call, work, receive)
        else:
            await self._answer_once(name, scope, call, receive, send)

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
                scope[_CLIENT_LEFT] = not await _run_until_left(work, receive, recorder)
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


async def _run_until_left(
    work: asyncio.Task[None], receive: Receive, recorder: Recorder | None = None
) -> bool:
    """Run the work; cancel it as soon as its client disconnects. True when it was completed.

    With a recorder it goes on for whoever asks again.
    Raises: what the work raises.
    """
    gone = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if recorder is not None and not work.done():
            recorder.let_go()
            await asyncio.wait((work,))
        is_complete = work.done()
        if is_complete:
            work.result()
        return is_complete
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
