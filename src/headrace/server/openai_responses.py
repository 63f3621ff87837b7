"""POST /v1/responses: a body and what came before it become a request, outputs become a response.

In: a decoded body, a Backend, the stored responses. Out: one JSON object, or a stream of events
that ends with the same one; in the background the response as it is now. Knows nothing of
templates, tokens or scheduling.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec

from headrace.core.backend import ModelInfo
from headrace.core.errors import (
    ContextTooLong,
    InvalidParameter,
    RequestError,
    UnsupportedParameter,
)
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.responses import RUNNING, ResponseStatus, StoredResponse
from headrace.server.call_notes import CallNotes
from headrace.server.error_responses import ErrorReply, describe_error, worded
from headrace.server.generation_schema import (
    check_truncation,
    make_sampling,
    read_stream_options,
    refuse_unsupported,
    unknown_in_repetition,
    unknown_names,
    validate,
)
from headrace.server.kept_requests import keep_request
from headrace.server.openai_payloads import encode
from headrace.server.openai_responses_schema import (
    ENCRYPTED_REASONING,
    RESPONSES_NEUTRAL,
    RESPONSES_REFUSED,
    ResponsesFields,
    check_features,
    missing_response,
    num_logprobs,
    read_reasoning,
    read_text,
)
from headrace.server.output_merge import Batches, open_batches
from headrace.server.replies import EventReply, JsonReply, warning_headers
from headrace.server.request_ids import engine_request_id
from headrace.server.response_events import Events, ResponseWriter, Shown
from headrace.server.response_items import (
    Item,
    Turns,
    check_calls,
    make_messages,
    new_id,
    parse_input,
)
from headrace.server.response_payloads import ResponseBody
from headrace.server.response_runs import Reader, Run, make_frames
from headrace.server.response_tools import ResponseTools, read_response_tools
from headrace.server.services import Call, Services
from headrace.server.sse import DONE, HEARTBEAT

DROPPED_HEADER = "x-headrace-dropped-items"


@dataclass(frozen=True, slots=True)
class ResponseCall:
    """A checked request. `headers` gain what is known once the request is admitted."""

    request: GenerateRequest
    writer: ResponseWriter
    instructions: str | None
    turns: Turns
    new_items: tuple[Item, ...]
    tenant: str
    request_id: str
    wire_names: Mapping[str, str]
    notes: CallNotes
    headers: dict[str, str] = field(default_factory=dict)


async def create_response(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer a request for a response.

    Raises: RequestError, CapacityError, BackendError, StoreError.
    """
    refuse_unsupported(call.body, RESPONSES_REFUSED, RESPONSES_NEUTRAL)
    fields = validate(ResponsesFields, call.body)
    model = services.find_model(fields.model)
    check_features(fields)
    response = await _make_call(services, call, model, fields)
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
    response = await _make_call(services, call, model, fields)
    with _in_our_words(response.wire_names):
        token_ids = await services.backend.text(model.name).encode(response.request)
    body = {"object": "response.input_tokens", "input_tokens": len(token_ids)}
    return JsonReply(encode(body), headers=response.headers)


async def _make_call(
    services: Services, call: Call, model: ModelInfo, fields: ResponsesFields
) -> ResponseCall:
    options = read_stream_options(fields)
    check_truncation(fields)
    items, unknown = parse_input(fields.input)
    text, verbosity, unknown_in_text = read_text(fields, model.template_variables)
    reasoning, unknown_in_reasoning = read_reasoning(fields, model.template_variables)
    names = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs", **text.wire_names}
    sampling = make_sampling(
        fields,
        names,
        max_tokens=fields.max_output_tokens,
        logprobs=num_logprobs(fields),
        structured_outputs=text.structured_outputs,
    )
    asked = read_response_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls)
    history = await read_history(services, call.caller.tenant, fields.previous_response_id)
    check_calls((*history, *items), len(history))
    body = _make_body(services, fields, sampling, text.shown, reasoning, asked)
    variables = dict(fields.chat_template_kwargs or {})
    given = {"reasoning_effort": reasoning["effort"], "verbosity": verbosity}
    for name, value in given.items():
        if value is not None and name in model.template_variables:
            variables.setdefault(name, value)
    request = GenerateRequest(
        request_id=engine_request_id(body.id),
        model=model.name,
        messages=make_messages(fields.instructions, (*history, *items)),
        tools=asked.tools,
        tool_choice=asked.choice,
        splits_reasoning=True,
        sampling=sampling,
        default_max_tokens=services.config.default_max_tokens,
        add_special_tokens=bool(fields.add_special_tokens),
        chat_template_kwargs=variables,
        truncate_prompt_tokens=fields.truncate_prompt_tokens,
        cache_salt=fields.cache_salt or "",
        priority=fields.priority or 0,
        has_effects=body.store,
    )
    unknown = [
        *unknown_names(fields, RESPONSES_REFUSED),
        *unknown_in_repetition(fields),
        *(unknown + unknown_in_text + unknown_in_reasoning),
        *asked.unknown,
        *unknown_names(options, (), "stream_options."),
        *(
            f"chat_template_kwargs.{name}"
            for name in sorted(set(variables) - model.template_variables)
        ),
        *(["store"] if fields.store and not body.store else []),
    ]
    return ResponseCall(
        request=request,
        writer=ResponseWriter(body, _what_is_shown(services, call, fields), services.clock),
        instructions=fields.instructions,
        turns=Turns((*history, *items)),
        new_items=items,
        tenant=call.caller.tenant,
        request_id=call.request_id,
        wire_names=names,
        notes=call.notes,
        headers=warning_headers(unknown),
    )


def _what_is_shown(services: Services, call: Call, fields: ResponsesFields) -> Shown:
    # Now: an adapter may be unloaded before its answer ends.
    build = services.build_of(services.find_model(fields.model).name)

    def members() -> Mapping[str, Any]:
        return call.notes.members(build, bool(fields.receipt), bool(fields.return_token_ids))

    return Shown(
        num_logprobs(fields),
        fields.include_reasoning is not False,
        ENCRYPTED_REASONING in (fields.include or ()),
        members,
    )


def _make_body(
    services: Services,
    fields: ResponsesFields,
    sampling: SamplingParams,
    text: Mapping[str, Any],
    reasoning: Mapping[str, Any],
    asked: ResponseTools,
) -> ResponseBody:
    """The response before its answer, with the values that hold.

    Raises: RequestError for one in the background that cannot be kept.
    """
    is_kept = fields.store is not False and services.kept.is_on
    if fields.background and fields.store is False:
        raise InvalidParameter("store", False, "true together with background: true")
    if fields.background and not is_kept:
        reason = "this server keeps no responses (store.response_retention_days is 0)."
        raise UnsupportedParameter("background", reason)
    tier = fields.service_tier or "default"
    return ResponseBody(
        id=new_id("resp"),
        created_at=int(services.clock.unix_s()),
        status="queued" if fields.background else "in_progress",
        model=fields.model,
        previous_response_id=fields.previous_response_id,
        instructions=fields.instructions,
        tools=asked.shown,
        tool_choice=asked.shown_choice,
        truncation=fields.truncation or "disabled",
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        text=text,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        top_logprobs=fields.top_logprobs or 0,
        temperature=sampling.temperature,
        reasoning=reasoning,
        max_output_tokens=fields.max_output_tokens or services.config.default_max_tokens,
        max_tool_calls=fields.max_tool_calls,
        store=is_kept,
        background=bool(fields.background),
        service_tier="priority" if tier == "fast" else tier,
        metadata=fields.metadata or {},
        safety_identifier=fields.safety_identifier,
        prompt_cache_key=fields.prompt_cache_key,
        user=fields.user,
    )


async def read_history(
    services: Services, tenant: str, response_id: str | None
) -> tuple[Item, ...]:
    """Input and output of the response that is continued, and of all before it.

    Raises: RequestError when one of them is gone or still runs; StoreError.
    """
    if response_id is None:
        return ()
    if not services.kept.is_on or "\0" in response_id:
        raise missing_response(response_id)
    # What a tenant keeps is more than one call may hold in memory.
    most = 4 * services.config.max_body_bytes
    chain = await services.kept.ask(lambda store: store.history(tenant, response_id, most))
    if not chain or chain[0].previous_id is not None:
        raise missing_response((chain[0].previous_id or "") if chain else response_id)
    if chain[-1].status in RUNNING and not chain[-1].is_lost:
        raise InvalidParameter(
            "previous_response_id",
            response_id,
            "a response that has ended",
            f"This one is {chain[-1].status}.",
        )
    items: list[Item] = []
    for response in chain:
        items += msgspec.json.decode(response.input_items)
        items += msgspec.json.decode(response.body)["output"]
    return tuple(items)


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
