"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API over the same requests.

In: a decoded body and a Backend. Out: one message, or a stream of named events whose texts join to
the same message. Knows nothing of templates, tokens or scheduling.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter
from headrace.core.output import CompletionDelta, RequestOutput
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.usage import Usage
from headrace.server.answer_form import unexplained_end
from headrace.server.anthropic_blocks import Conversation, parse_conversation
from headrace.server.anthropic_payloads import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Event,
    MessageBody,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    StopDelta,
    StopReason,
    TextBlock,
    TextDelta,
    TokenCount,
    make_usage,
)
from headrace.server.anthropic_schema import (
    MESSAGES_NEUTRAL,
    MESSAGES_REFUSED,
    WIRE_NAMES,
    MessageFields,
    PromptFields,
    check_fields,
    make_sampling,
    read_form,
    template_variables,
)
from headrace.server.error_responses import worded
from headrace.server.generation_schema import refuse_unsupported, validate
from headrace.server.openai_payloads import check_delta, encode
from headrace.server.output_merge import Batches, open_batches
from headrace.server.replies import EventReply, JsonReply, warning_headers
from headrace.server.request_ids import engine_request_id, message_id
from headrace.server.services import Call, Services
from headrace.server.sse import HEARTBEAT, named_frame

# Answers are the same in both. The later one takes no temperature, top_p and top_k; here it does.
_VERSIONS = ("2023-06-01", "2026-10-21")
_SERVICE_TIER = "standard"


@dataclass(frozen=True, slots=True)
class MessageCall:
    """A checked request, and how its answer is worded."""

    request: GenerateRequest
    id: str
    model: str
    max_tokens: int


async def create_message(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer a messages request.

    Raises: RequestError, CapacityError, BackendError.
    """
    _check_version(call)
    refuse_unsupported(call.body, MESSAGES_REFUSED, MESSAGES_NEUTRAL)
    fields = validate(MessageFields, call.body)
    model = services.find_model(fields.model)
    form, conversation = _read_prompt(fields)
    if conversation.is_continued and form is not None:
        raise InvalidParameter(
            "output_config.format",
            (fields.output_config or {}).get("format"),
            "only when the last message is not the assistant's",
        )
    answer_id = message_id()
    message = MessageCall(
        request=_make_request(
            answer_id, model, fields, conversation, make_sampling(fields, form), fields.max_tokens
        ),
        id=answer_id,
        model=fields.model,
        max_tokens=fields.max_tokens,
    )
    headers = warning_headers(conversation.unknown)
    if fields.stream:
        return EventReply(_stream(services, message), headers)
    return JsonReply(encode(await _complete(services, message)), headers=headers)


async def count_message_tokens(services: Services, call: Call) -> JsonReply:
    """Count the prompt of a messages request, which may be longer than the context.

    Raises: RequestError, BackendError.
    """
    _check_version(call)
    refuse_unsupported(call.body, MESSAGES_REFUSED, MESSAGES_NEUTRAL)
    fields = validate(PromptFields, call.body)
    model = services.find_model(fields.model)
    _, conversation = _read_prompt(fields)
    request = _make_request("count", model, fields, conversation, SamplingParams(), None)
    with worded(WIRE_NAMES):
        token_ids = await services.backend.text(model.name).encode(request)
    headers = warning_headers(conversation.unknown)
    return JsonReply(encode(TokenCount(len(token_ids))), headers=headers)


def _check_version(call: Call) -> None:
    given = call.headers.get("anthropic-version")
    if given is not None and given not in _VERSIONS:
        raise InvalidParameter("The header anthropic-version", given, " or ".join(_VERSIONS))


def _read_prompt(fields: PromptFields) -> tuple[StructuredOutputs | None, Conversation]:
    unknown = check_fields(fields)
    form, unknown_in_form = read_form(fields)
    conversation = parse_conversation(fields)
    conversation.unknown += unknown + unknown_in_form
    return form, conversation


def _make_request(
    answer_id: str,
    model: ModelInfo,
    fields: PromptFields,
    conversation: Conversation,
    sampling: SamplingParams,
    max_tokens: int | None,
) -> GenerateRequest:
    """`max_tokens` is an upper bound in this API: what the context leaves may be less."""
    return GenerateRequest(
        request_id=engine_request_id(answer_id),
        model=model.name,
        messages=tuple(conversation.messages),
        sampling=sampling,
        default_max_tokens=max_tokens,
        add_special_tokens=False,
        add_generation_prompt=not conversation.is_continued,
        continue_final_message=conversation.is_continued,
        chat_template_kwargs=template_variables(fields, model.template_variables),
    )


@asynccontextmanager
async def _open_batches(services: Services, message: MessageCall) -> AsyncIterator[Batches]:
    with worded(WIRE_NAMES):
        async with open_batches(services.backend, [message.request], services.config) as batches:
            yield batches


@dataclass(slots=True)
class _Answer:
    """The answer as it grows, as events."""

    call: MessageCall
    usage: Usage = field(default_factory=Usage)
    last: CompletionDelta | None = None
    has_begun: bool = False
    has_text: bool = False

    def add(self, output: RequestOutput) -> Iterator[Event]:
        """What an output adds to the message. Mutates: self."""
        self.usage = output.usage
        if not self.has_begun:
            self.has_begun = True
            body = MessageBody(self.call.id, self.call.model, [], self._usage())
            yield MessageStart(body)
        for delta in output.deltas:
            check_delta(delta)
            if delta.text and not self.has_text:
                self.has_text = True
                yield BlockStart(0, TextBlock(""))
            if delta.text:
                yield BlockDelta(0, TextDelta(delta.text))
            if delta.finish_reason is not None:
                self.last = delta

    def end(self) -> Iterator[Event]:
        """The events after the last output. Raises: BackendError when nothing ended the answer."""
        reason, stop = self.stop()
        if self.has_text:
            yield BlockStop(0)
        yield MessageDelta(StopDelta(reason, stop), make_usage(self.usage))
        yield MessageStop()

    def body(self, text: str) -> MessageBody:
        """The whole message. Raises: BackendError when nothing ended the answer."""
        reason, stop = self.stop()
        content = [TextBlock(text)] if text else []
        return MessageBody(self.call.id, self.call.model, content, self._usage(), reason, stop)

    def stop(self) -> tuple[StopReason, str | None]:
        """Why the answer ended, and the stop sequence that did it."""
        if self.last is None:
            raise unexplained_end()
        if self.last.finish_reason == "length":
            is_full = self.usage.output_tokens < self.call.max_tokens
            return ("model_context_window_exceeded" if is_full else "max_tokens"), None
        if isinstance(self.last.stop_reason, str):
            return "stop_sequence", self.last.stop_reason
        return "end_turn", None

    def _usage(self) -> MessageUsage:
        return make_usage(self.usage, _SERVICE_TIER)


async def _complete(services: Services, message: MessageCall) -> MessageBody:
    answer, texts = _Answer(message), []
    async with _open_batches(services, message) as batches:
        async for batch in batches:
            for _, output in batch:
                events = answer.add(output)
                texts += [event.delta.text for event in events if isinstance(event, BlockDelta)]
    return answer.body("".join(texts))


async def _stream(services: Services, message: MessageCall) -> AsyncGenerator[bytes, None]:
    answer = _Answer(message)
    async with _open_batches(services, message) as batches:
        async for batch in batches:
            frames = [_frame(event) for _, output in batch for event in answer.add(output)]
            if not batch:
                # Clients want message_start before any other event.
                frames = [_frame(Ping()) if answer.has_begun else HEARTBEAT]
            if frames:
                yield b"".join(frames)
    yield b"".join(map(_frame, answer.end()))


def _frame(event: Event) -> bytes:
    return named_frame(event.type, encode(event))
