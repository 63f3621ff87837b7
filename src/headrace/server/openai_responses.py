"""POST /v1/responses: a body and what came before it become a request, outputs become a response.

In: a decoded body, a Backend, the stored responses. Out: one JSON object, or a stream of events
that ends with the same one; in the background the response as it is now. Knows nothing of
templates, tokens or scheduling.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial

from headrace.core.errors import (
    ContextTooLong,
    RequestError,
)
from headrace.core.request import GenerateRequest
from headrace.core.responses import ResponseStatus, StoredResponse
from headrace.server.error_responses import ErrorReply, describe_error, worded
from headrace.server.generation_schema import (
    refuse_unsupported,
    validate,
)
from headrace.server.kept_requests import keep_request
from headrace.server.openai_payloads import encode
from headrace.server.openai_responses_schema import (
    RESPONSES_NEUTRAL,
    RESPONSES_REFUSED,
    ResponsesFields,
    check_features,
)
from headrace.server.output_merge import Batches, open_batches
from headrace.server.replies import EventReply, JsonReply
from headrace.server.response_call import ResponseCall, make_call
from headrace.server.response_events import Events, ResponseWriter
from headrace.server.response_items import (
    Turns,
    make_messages,
)
from headrace.server.response_payloads import ResponseBody
from headrace.server.response_runs import Reader, Run, make_frames
from headrace.server.services import Call, Services
from headrace.server.sse import DONE, HEARTBEAT

DROPPED_HEADER = "x-headrace-dropped-items"


async def create_response(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer a request for a response.

    Raises: RequestError, CapacityError, BackendError, StoreError.
    """
    refuse_unsupported(call.body, RESPONSES_REFUSED, RESPONSES_NEUTRAL)
    fields = validate(ResponsesFields, call.body)
    model = services.find_model(fields.model)
    check_features(fields)
    response = await make_call(services, call, model, fields)
    has_server_length = services.config.default_max_tokens is not None
    call.notes.begin("/v1/responses", call.body, [response.request], has_server_length)
    call.notes.keeps_tokens |= bool(fields.return_token_ids)
    response.headers.update(call.notes.headers(services.build_of(model.name)))
    events = _answer(services, response)
    if fields.background:
        return await _start(services, call, response, events, bool(fields.stream))
    if fields.stream:
        return EventReply(
            _stream(services, response, events),
            response.headers,
            partial(_last_words, response.writer),
        )
    async for _ in events:
        pass
    await _keep(services, response, response.writer.body)
    return JsonReply(encode(response.writer.body), headers=response.headers)


async def count_input_tokens(services: Services, call: Call) -> JsonReply:
    """Count what a response would read, which may be longer than the context.

    Raises: RequestError, BackendError, StoreError.
    """
    refuse_unsupported(call.body, RESPONSES_REFUSED, RESPONSES_NEUTRAL)
    names = list(services.models())
    given = call.body if call.body.get("model") is not None else {**call.body, "model": names[0]}
    fields = validate(ResponsesFields, given)
    model = services.find_model(fields.model)
    check_features(fields)
    response = await make_call(services, call, model, fields)
    with _in_our_words(response.wire_names):
        token_ids = await services.backend.text(model.name).encode(response.request)
    body = {"object": "response.input_tokens", "input_tokens": len(token_ids)}
    return JsonReply(encode(body), headers=response.headers)


async def _answer(services: Services, response: ResponseCall) -> AsyncGenerator[Events, None]:
    """Events but the last one, nothing while nothing comes; the writer has the response then."""
    writer = response.writer
    async with _admitted(services, response) as batches:
        yield writer.begin()
        async for batch in batches:
            for _, output in batch:
                response.notes.note(0, output)
            events = [event for _, output in batch for event in writer.add(output)]
            if events or not batch:
                yield events
    yield writer.end()


@asynccontextmanager
async def _admitted(services: Services, response: ResponseCall) -> AsyncIterator[Batches]:
    """The outputs of the request. Where old turns may go they do, until the rest fits.

    Mutates: response.headers.
    """
    turns, request, is_open = response.turns, response.request, False
    may_drop = response.writer.body.truncation == "auto"
    with _in_our_words(response.wire_names):
        while not is_open:
            try:
                async with open_batches(services.backend, [request], services.config) as batches:
                    is_open = True
                    yield batches
            except ContextTooLong as error:
                shorter = _shorten(turns, request, error) if may_drop and not is_open else None
                if shorter is None:
                    raise
                turns = shorter
                messages = make_messages(response.instructions, turns.items)
                request = replace(request, messages=messages)
                response.headers[DROPPED_HEADER] = str(turns.num_dropped)
                response.notes.requests[0].num_dropped_items = turns.num_dropped


def _shorten(turns: Turns, request: GenerateRequest, error: ContextTooLong) -> Turns | None:
    """Leave out about as much as is too much, by the length of its text."""
    num_chars = sum(len(message.content or "") for message in request.messages or ())
    too_much = error.num_tokens + (error.max_tokens or 1) - error.max_model_len
    return turns.without_oldest(num_chars * too_much // max(1, error.num_tokens))


@contextmanager
def _in_our_words(wire_names: Mapping[str, str]) -> Iterator[None]:
    """Say errors about messages, which the caller never sent, as errors about the input."""
    try:
        with worded({**wire_names, "messages": "input"}):
            yield
    except RequestError as error:
        if not (error.param or "").startswith("messages["):
            raise
        raise RequestError(error.message, "input", error.code) from None


async def _stream(
    services: Services, response: ResponseCall, events: AsyncGenerator[Events, None]
) -> AsyncGenerator[bytes, None]:
    writer, has_begun = response.writer, False
    try:
        async for new in events:
            yield make_frames(new) or HEARTBEAT
            has_begun = True
    except Exception as error:
        if has_begun:
            failed = writer.failed(describe_error(error, response.request_id))
            await _keep(services, response, failed)
        raise
    finally:
        await events.aclose()
    await _keep(services, response, writer.body)
    yield make_frames(writer.final()) + DONE


def _last_words(writer: ResponseWriter, error: ErrorReply) -> bytes:
    return make_frames(writer.fail(error)) + DONE


async def _keep(services: Services, response: ResponseCall, body: ResponseBody) -> None:
    """Store a response that has ended, if it is to be stored; say so if it cannot be."""
    if body.store and not await services.kept.add(_to_store(response, body, body.status)):
        response.writer.forget_storing()


def _to_store(response: ResponseCall, body: ResponseBody, status: ResponseStatus) -> StoredResponse:
    return StoredResponse(
        id=body.id,
        tenant=response.tenant,
        created_at_s=body.created_at,
        status=status,
        body=encode(body),
        input_items=encode(response.new_items),
        previous_id=body.previous_response_id,
    )


async def _start(
    services: Services,
    call: Call,
    response: ResponseCall,
    events: AsyncGenerator[Events, None],
    is_streamed: bool,
) -> JsonReply | EventReply:
    """Let the response go on in the background, once it is admitted and can be found again.

    Raises: what the admission raises; StoreError.
    """
    writer = response.writer
    run = Run(response.tenant, response.request_id, writer, call.meter, services.kept, is_streamed)
    call.meter.be_patient()
    events = _kept_when_over(services, call, events)
    try:
        run.add(await anext(events))
        begun = _to_store(response, writer.body, writer.status)
        await services.kept.ask(lambda store: store.add(begun))
    except BaseException:
        await events.aclose()
        raise
    call.meter.detach()
    services.runs.start(run, events, services.lifetime)
    if is_streamed:
        reader = Reader(run, 0, services.config.heartbeat_s)
        return EventReply(reader.frames(), response.headers, reader.last_words)
    return JsonReply(encode(writer.body), headers=response.headers)


async def _kept_when_over(
    services: Services, call: Call, events: AsyncGenerator[Events, None]
) -> AsyncGenerator[Events, None]:
    """The events; after the last one, whatever ended them, the call is kept to be run again."""
    try:
        async with aclosing(events):
            async for new in events:
                yield new
    finally:
        keep_request(services, call)
