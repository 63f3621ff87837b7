"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API over the same requests.

In: a decoded body and a Backend. Out: one message, or a stream of named events whose texts join to
the same message. Knows nothing of templates, tokens or scheduling.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from headrace.core.backend import ModelInfo
from headrace.core.config import ServerConfig
from headrace.core.errors import InvalidParameter
from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.server.anthropic_answer import AnswerWords, MessageAnswer
from headrace.server.anthropic_blocks import Conversation, parse_conversation
from headrace.server.anthropic_dialect import check_version
from headrace.server.anthropic_payloads import Event, MessageBody, Ping, TokenCount
from headrace.server.anthropic_schema import (
    MESSAGES_NEUTRAL,
    MESSAGES_REFUSED,
    WIRE_NAMES,
    MessageFields,
    PromptFields,
    ThinkingAsked,
    check_fields,
    make_sampling,
    read_effort,
    read_form,
    read_thinking,
)
from headrace.server.anthropic_tools import read_tools, tool_wire_names
from headrace.server.call_notes import CallNotes
from headrace.server.error_responses import worded
from headrace.server.generation_schema import refuse_unsupported, validate
from headrace.server.openai_payloads import encode
from headrace.server.output_merge import Batches, open_batches
from headrace.server.replies import EventReply, JsonReply
from headrace.server.request_ids import engine_request_id, message_id
from headrace.server.services import Call, Services
from headrace.server.sse import HEARTBEAT, named_frame
from headrace.server.tool_schema import ToolsAsked


@frozen
class MessageCall:
    """A checked request, how its answer is worded, and its fields in our words."""

    request: GenerateRequest
    words: AnswerWords
    wire_names: Mapping[str, str]
    notes: CallNotes


@frozen
class Prompt:
    """What both routes read of a body. `ignored` are keys without effect."""

    conversation: Conversation
    asked: ToolsAsked
    thinking: ThinkingAsked
    form: StructuredOutputs | None
    variables: Mapping[str, Any]
    ignored: Sequence[str]

    @property
    def wire_names(self) -> dict[str, str]:
        return {**WIRE_NAMES, **tool_wire_names(self.asked.tools)}


async def create_message(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer a messages request.

    Raises: RequestError, CapacityError, BackendError.
    """
    _check_call(call)
    fields = validate(MessageFields, call.body)
    model = services.find_model(fields.model)
    prompt = _read_prompt(fields, model, services.config)
    _check_form(fields, prompt)
    # Now: an adapter may be replaced before its answer ends.
    build = services.build_of(model.name)
    words = AnswerWords(
        message_id(),
        fields.model,
        fields.max_tokens,
        prompt.thinking.shown,
        lambda: call.notes.members(build, bool(fields.receipt), bool(fields.return_token_ids)),
    )
    sampling = make_sampling(fields, prompt.form)
    # An upper bound in this API: what the context leaves may be less.
    request = replace(
        _make_request(words.id, model, prompt, sampling), default_max_tokens=fields.max_tokens
    )
    message = MessageCall(request, words, prompt.wire_names, call.notes)
    call.notes.begin("/v1/messages", call.body, [request], has_server_length=False)
    call.notes.keeps_tokens |= bool(fields.return_token_ids)
    headers = services.warned(prompt.ignored) | call.notes.headers(build)
    if fields.stream:
        return EventReply(_stream(services, message), headers)
    return JsonReply(encode(await _complete(services, message)), headers=headers)


async def count_message_tokens(services: Services, call: Call) -> JsonReply:
    """Count the prompt of a messages request, which may be longer than the context.

    Raises: RequestError, BackendError.
    """
    _check_call(call)
    fields = validate(PromptFields, call.body)
    model = services.find_model(fields.model)
    prompt = _read_prompt(fields, model, services.config)
    request = _make_request("count", model, prompt, SamplingParams())
    with worded(prompt.wire_names):
        token_ids = await services.backend.text(model.name).encode(request)
    headers = services.warned(prompt.ignored)
    return JsonReply(encode(TokenCount(len(token_ids))), headers=headers)


def _check_call(call: Call) -> None:
    check_version(call.headers)
    refuse_unsupported(call.body, MESSAGES_REFUSED, MESSAGES_NEUTRAL)


def _read_prompt(fields: PromptFields, model: ModelInfo, config: ServerConfig) -> Prompt:
    unknown = check_fields(fields)
    form, unknown_in_form = read_form(fields)
    conversation = parse_conversation(fields)
    asked, thinking = read_tools(fields), read_thinking(fields, model, config)
    effort, unread = read_effort(fields, model, config)
    unknown += [*unknown_in_form, *asked.unknown, *thinking.unknown, *unread]
    return Prompt(
        conversation,
        asked,
        thinking,
        form,
        {**thinking.variables, **effort},
        [*conversation.unknown, *unknown],
    )


def _check_form(fields: MessageFields, prompt: Prompt) -> None:
    """Raises: InvalidParameter where the answer cannot have its form from its first token on."""
    if prompt.form is None:
        return
    calls_tools = prompt.asked.tools and prompt.asked.choice.mode != "none"
    for is_other, what in (
        (prompt.conversation.is_continued, "when the last message is not the assistant's"),
        (calls_tools, 'without tools, or with a tool_choice of {"type": "none"}'),
        ((fields.thinking or {}).get("type") == "enabled", "when thinking is not enabled"),
    ):
        if is_other:
            given = (fields.output_config or {}).get("format")
            raise InvalidParameter("output_config.format", given, f"only {what}")


def _make_request(
    answer_id: str, model: ModelInfo, prompt: Prompt, sampling: SamplingParams
) -> GenerateRequest:
    conversation = prompt.conversation
    return GenerateRequest(
        request_id=engine_request_id(answer_id),
        model=model.name,
        messages=tuple(conversation.messages),
        tools=prompt.asked.tools,
        tool_choice=prompt.asked.choice,
        splits_reasoning=True,
        sampling=sampling,
        add_special_tokens=False,
        add_generation_prompt=not conversation.is_continued,
        continue_final_message=conversation.is_continued,
        chat_template_kwargs=prompt.variables,
    )


@asynccontextmanager
async def _open_batches(services: Services, message: MessageCall) -> AsyncIterator[Batches]:
    with worded(message.wire_names):
        async with open_batches(services.backend, [message.request], services.config) as batches:
            yield batches


async def _complete(services: Services, message: MessageCall) -> MessageBody:
    answer = MessageAnswer(message.words)
    async with _open_batches(services, message) as batches:
        async for batch in batches:
            for _, output in batch:
                message.notes.note(0, output)
                for _event in answer.add(output):
                    pass
    return answer.body()


async def _stream(services: Services, message: MessageCall) -> AsyncGenerator[bytes, None]:
    answer, clock = MessageAnswer(message.words), services.clock
    sent_at_s = clock.monotonic_s()
    async with _open_batches(services, message) as batches:
        async for batch in batches:
            for _, output in batch:
                message.notes.note(0, output)
            frames = [_frame(event) for _, output in batch for event in answer.add(output)]
            now_s = clock.monotonic_s()
            # Hidden thinking gives outputs that say nothing.
            if not frames and (not batch or now_s - sent_at_s > services.config.heartbeat_s):
                # Clients want message_start before any other event.
                frames = [_frame(Ping()) if answer.has_begun else HEARTBEAT]
            if frames:
                sent_at_s = now_s
                yield b"".join(frames)
    yield b"".join(map(_frame, answer.end()))


def _frame(event: Event) -> bytes:
    return named_frame(event.type, encode(event))
