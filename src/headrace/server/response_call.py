"""From the body of a response to the request that answers it, and the response before its answer.

In: checked fields, the stored responses. Out: a ResponseCall, or an error in the caller's words.
Asks no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import msgspec

from headrace.core.backend import ModelInfo
from headrace.core.errors import (
    InvalidParameter,
    UnsupportedParameter,
)
from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.responses import RUNNING
from headrace.server.call_notes import CallNotes
from headrace.server.generation_schema import (
    check_truncation,
    make_sampling,
    names_without_effect,
    read_stream_options,
    unknown_names,
)
from headrace.server.openai_payloads import encode
from headrace.server.openai_responses_schema import (
    ENCRYPTED_REASONING,
    RESPONSES_REFUSED,
    ResponsesFields,
    missing_response,
    num_logprobs,
    read_reasoning,
    read_text,
)
from headrace.server.request_ids import engine_request_id
from headrace.server.response_events import ResponseWriter, Shown
from headrace.server.response_items import (
    Item,
    Turns,
    check_calls,
    make_messages,
    new_id,
    parse_input,
)
from headrace.server.response_payloads import ResponseBody
from headrace.server.response_tools import ResponseTools, read_response_tools
from headrace.server.services import Call, Services
from headrace.server.template_wishes import read_wishes, unread_names


@frozen
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


async def make_call(
    services: Services, call: Call, model: ModelInfo, fields: ResponsesFields
) -> ResponseCall:
    """Check a body, and add what came before it. Raises: RequestError, StoreError."""
    options = read_stream_options(fields)
    check_truncation(fields)
    items, unknown = parse_input(fields.input)
    text, verbosity, unknown_in_text = read_text(fields)
    reasoning, effort, unknown_in_reasoning = read_reasoning(fields)
    variables, unread = read_wishes((verbosity, effort), model, services.config)
    variables |= fields.chat_template_kwargs or {}
    # What is shown is what holds.
    shown_text = {**text.shown, "verbosity": "medium"} if verbosity.field in unread else text.shown
    if effort.field in unread:
        reasoning["effort"] = None
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
    body = _make_body(services, fields, sampling, shown_text, reasoning, asked)
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
    form_at = ""
    if text.structured_outputs is not None:
        form_at = "text.format" if fields.structured_outputs is None else "structured_outputs"
    unknown = [
        *unknown_names(fields, RESPONSES_REFUSED),
        *names_without_effect(fields, model),
        *(unknown + unknown_in_text + unknown_in_reasoning),
        *asked.unknown,
        *unknown_names(options, (), "stream_options."),
        *(unread + unread_names(variables, model)),
        *(["store"] if fields.store and not body.store else []),
        *([form_at] if form_at and asked.choice.mode == "required" else []),
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
        headers=services.warned(unknown),
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
        service_tier="default",
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
    run = services.runs.find(tenant, response_id)
    stored = await services.kept.ask(lambda store: store.history(tenant, response_id, most))
    if not stored or stored[0].previous_id is not None:
        raise missing_response((stored[0].previous_id or "") if stored else response_id)
    chain = list(stored)
    if run is not None and run.writer.status not in RUNNING:
        # Its caller has seen the end already; the store may learn of it later.
        body = encode(run.writer.snapshot())
        chain[-1] = replace(chain[-1], status=run.writer.status, body=body)
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
