"""POST /v1/chat/completions: a body becomes a GenerateRequest, outputs become an answer or chunks.

In: a decoded body and a Backend. Out: one JSON object, or a stream of chunks whose texts join to
the same answer. Knows nothing of templates, tokens or scheduling.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter
from headrace.core.frozen import frozen
from headrace.core.output import (
    CompletionDelta,
    PositionLogprobs,
    RequestOutput,
    ToolCallDelta,
    join_calls,
)
from headrace.core.receipt import ModelBuild, Receipt
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.usage import Usage
from headrace.server.answer_form import AnswerForm, make_form, unexplained_end
from headrace.server.call_notes import CallNotes
from headrace.server.error_responses import worded
from headrace.server.form_schema import form_wire_names, read_form
from headrace.server.generation_schema import (
    check_truncation,
    make_sampling,
    names_without_effect,
    refuse_unsupported,
    unknown_names,
    validate,
)
from headrace.server.openai_chat_schema import (
    CHAT_NEUTRAL,
    CHAT_REFUSED,
    ChatCompletionFields,
    check_features,
    is_continuation,
    parse_messages,
    parse_prediction,
)
from headrace.server.openai_payloads import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessageBody,
    PromptLogprobsBody,
    UsageBody,
    check_delta,
    encode,
    make_chat_logprobs,
    make_prompt_logprobs,
    make_tool_call,
    make_usage,
)
from headrace.server.output_merge import Batches, open_batches
from headrace.server.replies import EventReply, JsonReply
from headrace.server.request_ids import engine_request_id
from headrace.server.services import Call, Services
from headrace.server.sse import DONE, HEARTBEAT, frame
from headrace.server.template_wishes import Wish, read_wishes, unread_names
from headrace.server.tool_schema import read_tools, tool_wire_names

_NOTHING = ChatDelta()


@frozen
class ChatCall:
    """A checked request, and how its answer is worded."""

    request: GenerateRequest
    form: AnswerForm
    service_tier: str | UnsetType
    wire_names: Mapping[str, str]
    shows_reasoning: bool
    notes: CallNotes
    build: ModelBuild | None

    def logprobs(self, positions: Sequence[PositionLogprobs] | None) -> ChatLogprobs | None:
        wanted = self.request.sampling.logprobs
        if wanted is None or positions is None:
            return None
        return make_chat_logprobs(positions, wanted, self.form.shows_tokens_as_ids)

    def prompt_token_ids(self, output: RequestOutput) -> Sequence[int] | UnsetType:
        ids = output.prompt_token_ids
        return ids if self.form.shows_token_ids and ids is not None else UNSET

    def usage(self, usage: Usage) -> UsageBody:
        return make_usage(usage, is_predicted=self.request.prediction is not None)

    def receipt(self) -> Receipt | UnsetType:
        return self.notes.receipt(self.build) if self.form.shows_receipt else UNSET

    def prompt_logprobs(self, output: RequestOutput) -> PromptLogprobsBody | UnsetType:
        is_wanted = self.request.sampling.prompt_logprobs is not None
        positions = output.prompt_logprobs
        return make_prompt_logprobs(positions) if is_wanted and positions is not None else UNSET


async def create_chat_completion(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer a chat request.

    Raises: RequestError, CapacityError, BackendError.
    """
    refuse_unsupported(call.body, CHAT_REFUSED, CHAT_NEUTRAL)
    fields = validate(ChatCompletionFields, call.body)
    model = services.find_model(fields.model)
    check_features(fields)
    chat, unknown = _make_call(services, model, fields, call.notes)
    has_server_length = services.config.default_max_tokens is not None
    call.notes.begin("/v1/chat/completions", call.body, [chat.request], has_server_length)
    headers = services.warned(unknown) | call.notes.headers(chat.build)
    if fields.stream:
        return EventReply(_stream(services, chat), headers)
    return JsonReply(encode(await _complete(services, chat)), headers=headers)


def _make_call(
    services: Services, model: ModelInfo, fields: ChatCompletionFields, notes: CallNotes
) -> tuple[ChatCall, list[str]]:
    form = make_form(services, fields, "chatcmpl")
    messages, unknown_in_messages = parse_messages(fields.messages)
    is_continued = is_continuation(fields.continue_final_message, fields.add_generation_prompt)
    check_truncation(fields)
    structured_outputs, unknown_in_form = read_form(fields)
    prediction, unknown_in_prediction = parse_prediction(fields.prediction)
    wishes = (
        Wish("reasoning_effort", "reasoning_effort", fields.reasoning_effort, "none"),
        Wish("verbosity", "verbosity", fields.verbosity, "medium"),
    )
    variables, unread = read_wishes(wishes, model, services.config)
    variables |= fields.chat_template_kwargs or {}
    asked = read_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls)
    request = GenerateRequest(
        request_id=engine_request_id(form.id),
        model=model.name,
        messages=messages,
        tools=asked.tools,
        tool_choice=asked.choice,
        splits_reasoning=True,
        sampling=_sampling(fields, structured_outputs),
        default_max_tokens=services.config.default_max_tokens,
        add_special_tokens=bool(fields.add_special_tokens),
        add_generation_prompt=not is_continued and fields.add_generation_prompt is not False,
        continue_final_message=is_continued,
        chat_template_kwargs=variables,
        truncate_prompt_tokens=fields.truncate_prompt_tokens,
        cache_salt=fields.cache_salt or "",
        priority=fields.priority or 0,
        prediction=prediction,
    )
    chat = ChatCall(
        request=request,
        form=form,
        service_tier="default" if fields.service_tier else UNSET,
        wire_names=_wire_names(fields) | tool_wire_names(asked.tools),
        shows_reasoning=fields.include_reasoning is not False,
        notes=notes,
        build=services.build_of(model.name),
    )
    ignored = unread + unread_names(variables, model, messages)
    ignored += ["store"] if fields.store else []
    lengths = fields.max_tokens, fields.max_completion_tokens
    ignored += ["max_tokens"] if None not in lengths and lengths[0] != lengths[1] else []
    unknown = unknown_names(fields, CHAT_REFUSED) + unknown_in_messages + unknown_in_form
    unknown += [*asked.unknown, *unknown_in_prediction, *names_without_effect(fields, model)]
    if structured_outputs is not None and asked.choice.mode == "required":
        is_extra = fields.structured_outputs is not None
        ignored.append("structured_outputs" if is_extra else "response_format")
    return chat, unknown + unknown_names(form.options, (), "stream_options.") + ignored


def _sampling(
    fields: ChatCompletionFields, structured_outputs: StructuredOutputs | None
) -> SamplingParams:
    if fields.top_logprobs is not None and not fields.logprobs:
        raise InvalidParameter(
            "top_logprobs", fields.top_logprobs, "only together with logprobs: true"
        )
    names = _wire_names(fields)
    max_tokens = getattr(fields, names["max_tokens"])
    return make_sampling(
        fields,
        names,
        max_tokens=max_tokens,
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        structured_outputs=structured_outputs,
    )


def _wire_names(fields: ChatCompletionFields) -> dict[str, str]:
    is_old = fields.max_completion_tokens is None and fields.max_tokens is not None
    return {
        "max_tokens": "max_tokens" if is_old else "max_completion_tokens",
        "logprobs": "top_logprobs",
        **form_wire_names(fields),
    }


@dataclass(slots=True)
class _Answer:
    """One answer as it grows."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCallDelta] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    positions: list[PositionLogprobs] = field(default_factory=list)
    last: CompletionDelta | None = None

    def add(self, delta: CompletionDelta) -> None:
        self.texts.append(delta.text)
        self.reasoning.append(delta.reasoning)
        self.calls.extend(delta.tool_calls)
        self.token_ids.extend(delta.token_ids)
        self.positions.extend(delta.logprobs or ())
        if delta.finish_reason is not None:
            self.last = delta


@asynccontextmanager
async def _open_batches(services: Services, chat: ChatCall) -> AsyncIterator[Batches]:
    with worded(chat.wire_names):
        async with open_batches(services.backend, [chat.request], services.config) as batches:
            yield batches


async def _complete(services: Services, chat: ChatCall) -> ChatCompletion:
    answers = [_Answer() for _ in range(chat.request.sampling.n)]
    usage = Usage()
    prompt_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobsBody | UnsetType = UNSET
    async with _open_batches(services, chat) as batches:
        async for batch in batches:
            for index, output in batch:
                usage = output.usage
                chat.notes.note(index, output)
                if prompt_ids is UNSET:
                    prompt_ids = chat.prompt_token_ids(output)
                if prompt_logprobs is UNSET:
                    prompt_logprobs = chat.prompt_logprobs(output)
                for delta in output.deltas:
                    answers[delta.index].add(check_delta(delta))
    return ChatCompletion(
        id=chat.form.id,
        created=chat.form.created,
        model=chat.form.model,
        choices=[_choice(chat, index, answer) for index, answer in enumerate(answers)],
        usage=chat.usage(usage),
        system_fingerprint=chat.form.fingerprint,
        service_tier=chat.service_tier,
        prompt_token_ids=prompt_ids,
        prompt_logprobs=prompt_logprobs,
        receipt=chat.receipt(),
    )


def _choice(chat: ChatCall, index: int, answer: _Answer) -> ChatChoice:
    if answer.last is None or answer.last.finish_reason is None:
        raise unexplained_end()
    return ChatChoice(
        index=index,
        message=_message(chat, answer),
        logprobs=chat.logprobs(answer.positions),
        finish_reason=answer.last.finish_reason,
        stop_reason=answer.last.stop_reason,
        token_ids=answer.token_ids if chat.form.shows_token_ids else UNSET,
    )


def _message(chat: ChatCall, answer: _Answer) -> ChatMessageBody:
    text, calls = "".join(answer.texts), join_calls(answer.calls)
    reasoning = "".join(answer.reasoning) if chat.shows_reasoning else ""
    return ChatMessageBody(
        content=text if text or not (calls or reasoning) else None,
        tool_calls=[make_tool_call(call, in_chunk=False) for call in calls] or UNSET,
        reasoning=reasoning or UNSET,
        reasoning_content=reasoning or UNSET,
    )


async def _stream(services: Services, chat: ChatCall) -> AsyncGenerator[bytes, None]:
    usage, open_answers = Usage(), set(range(chat.request.sampling.n))
    begun: set[int] = set()
    async with _open_batches(services, chat) as batches:
        async for batch in batches:
            frames = [] if batch else [HEARTBEAT]
            for index, output in batch:
                usage = output.usage
                chat.notes.note(index, output)
                frames += [frame(encode(chunk)) for chunk in _chunks(chat, output, begun)]
                open_answers -= {d.index for d in output.deltas if d.finish_reason is not None}
            if frames:
                yield b"".join(frames)
    if open_answers:
        raise unexplained_end()
    if chat.form.options.include_usage or chat.form.shows_receipt:
        last = _chunk(chat, [], usage if chat.form.options.include_usage else None)
        yield frame(encode(replace(last, receipt=chat.receipt()))) + DONE
    else:
        yield DONE


def _chunks(chat: ChatCall, output: RequestOutput, begun: set[int]) -> Iterator[ChatChunk]:
    """Chunks of one output; the first of each answer opens with the role.

    Mutates: begun.
    """
    usage = output.usage if chat.form.options.continuous_usage_stats else None
    for delta in output.deltas:
        check_delta(delta)
        if delta.index not in begun:
            is_first = not begun
            begun.add(delta.index)
            opening = ChatChunkChoice(delta.index, ChatDelta(role="assistant", content=""))
            yield _chunk(
                chat,
                [opening],
                usage,
                chat.prompt_token_ids(output) if is_first else UNSET,
                chat.prompt_logprobs(output) if is_first else UNSET,
            )
        is_last = delta.finish_reason is not None
        logprobs = chat.logprobs(delta.logprobs)
        shows_ids = chat.form.shows_token_ids and bool(delta.token_ids)
        gained = _gained(chat, delta)
        if not (gained != _NOTHING or is_last or logprobs or shows_ids):
            continue
        choice = ChatChunkChoice(
            delta.index,
            gained if gained != _NOTHING or is_last else ChatDelta(content=""),
            logprobs,
            delta.finish_reason,
            delta.stop_reason if is_last else UNSET,
            delta.token_ids if chat.form.shows_token_ids else UNSET,
        )
        yield _chunk(chat, [choice], usage)


def _gained(chat: ChatCall, delta: CompletionDelta) -> ChatDelta:
    reasoning = delta.reasoning if chat.shows_reasoning else ""
    return ChatDelta(
        content=delta.text or UNSET,
        tool_calls=[make_tool_call(call, in_chunk=True) for call in delta.tool_calls] or UNSET,
        reasoning=reasoning or UNSET,
        reasoning_content=reasoning or UNSET,
    )


def _chunk(
    chat: ChatCall,
    choices: list[ChatChunkChoice],
    usage: Usage | None,
    prompt_token_ids: Sequence[int] | UnsetType = UNSET,
    prompt_logprobs: PromptLogprobsBody | UnsetType = UNSET,
) -> ChatChunk:
    absent = None if chat.form.options.include_usage else UNSET
    return ChatChunk(
        id=chat.form.id,
        created=chat.form.created,
        model=chat.form.model,
        choices=choices,
        system_fingerprint=chat.form.fingerprint,
        service_tier=chat.service_tier,
        usage=absent if usage is None else chat.usage(usage),
        prompt_token_ids=prompt_token_ids,
        prompt_logprobs=prompt_logprobs,
    )
