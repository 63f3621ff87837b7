"""POST /v1/completions: several prompts, each a GenerateRequest; their answers are one list.

In: a decoded body and a Backend. Out: one JSON object or a stream of chunks. The choice of prompt
`i` and answer `k` has index `i * n + k`. Knows nothing of tokens or scheduling.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from headrace.core.backend import ModelInfo
from headrace.core.errors import BackendError
from headrace.core.frozen import frozen
from headrace.core.output import CompletionDelta, PositionLogprobs, RequestOutput
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
    with_other_seed,
)
from headrace.server.openai_completions_schema import (
    COMPLETIONS_NEUTRAL,
    COMPLETIONS_REFUSED,
    CompletionFields,
    Prompt,
    check_best_of,
    read_prompts,
)
from headrace.server.openai_payloads import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    UsageBody,
    check_delta,
    encode,
    make_completion_logprobs,
    make_prompt_logprobs,
    make_usage,
    sum_usage,
)
from headrace.server.output_merge import Batches, open_batches
from headrace.server.replies import EventReply, JsonReply
from headrace.server.request_ids import engine_request_id
from headrace.server.services import Call, Services
from headrace.server.sse import DONE, HEARTBEAT, frame

# The API's own default; longer answers have to be asked for.
DEFAULT_MAX_TOKENS = 16


@frozen
class CompletionCall:
    """Checked requests, one per prompt, and how their answers are worded."""

    requests: tuple[GenerateRequest, ...]
    form: AnswerForm
    echoes: bool
    shows_prompt_logprobs: bool
    wire_names: Mapping[str, str]
    notes: CallNotes
    build: ModelBuild | None

    def receipt(self) -> Receipt | UnsetType:
        return self.notes.receipt(self.build) if self.form.shows_receipt else UNSET

    @property
    def sampling(self) -> SamplingParams:
        return self.requests[0].sampling


async def create_completion(services: Services, call: Call) -> JsonReply | EventReply:
    """Answer a text completion request.

    Raises: RequestError, CapacityError, BackendError.
    """
    refuse_unsupported(call.body, COMPLETIONS_REFUSED, COMPLETIONS_NEUTRAL)
    fields = validate(CompletionFields, call.body)
    model = services.find_model(fields.model)
    completion, unknown = _make_call(services, model, fields, call.notes)
    has_server_length = services.config.default_max_tokens is not None
    call.notes.begin("/v1/completions", call.body, completion.requests, has_server_length)
    headers = services.warned(unknown) | call.notes.headers(completion.build)
    if fields.stream:
        return EventReply(_stream(services, completion), headers)
    return JsonReply(encode(await _complete(services, completion)), headers=headers)


def _make_call(
    services: Services, model: ModelInfo, fields: CompletionFields, notes: CallNotes
) -> tuple[CompletionCall, list[str]]:
    form = make_form(services, fields, "cmpl")
    prompts = read_prompts(fields, services.config.max_prompts)
    check_best_of(fields)
    check_truncation(fields)
    structured_outputs, unknown_in_form = read_form(fields)
    sampling = _sampling(fields, structured_outputs)
    requests = tuple(
        GenerateRequest(
            request_id=engine_request_id(form.id, index),
            model=model.name,
            prompt=prompt,
            sampling=with_other_seed(sampling) if index and fields.seed is None else sampling,
            add_special_tokens=fields.add_special_tokens is not False,
            truncate_prompt_tokens=fields.truncate_prompt_tokens,
            return_prompt_text=bool(fields.echo),
            suffix=fields.suffix or None,
            default_max_tokens=services.config.default_max_tokens or DEFAULT_MAX_TOKENS,
            cache_salt=fields.cache_salt or "",
            priority=fields.priority or 0,
        )
        for index, prompt in enumerate(prompts)
    )
    completion = CompletionCall(
        requests=requests,
        form=form,
        echoes=bool(fields.echo),
        shows_prompt_logprobs=fields.prompt_logprobs is not None,
        wire_names=form_wire_names(fields),
        notes=notes,
        build=services.build_of(model.name),
    )
    unknown = unknown_names(fields, COMPLETIONS_REFUSED) + unknown_in_form
    unknown += names_without_effect(fields, model)
    return completion, unknown + unknown_names(form.options, (), "stream_options.")


def _sampling(
    fields: CompletionFields, structured_outputs: StructuredOutputs | None
) -> SamplingParams:
    prompt_logprobs = fields.prompt_logprobs
    if fields.echo and prompt_logprobs is None:
        prompt_logprobs = fields.logprobs
    # An echoed prompt is scored as deeply as the answer, so a wrong number is about `logprobs`.
    wire_names = {} if fields.prompt_logprobs is not None else {"prompt_logprobs": "logprobs"}
    return make_sampling(
        fields,
        wire_names,
        is_prompt_read=bool(fields.echo) or prompt_logprobs is not None,
        max_tokens=fields.max_tokens,
        logprobs=fields.logprobs,
        prompt_logprobs=prompt_logprobs,
        structured_outputs=structured_outputs,
    )


@dataclass(slots=True)
class _PromptPart:
    """What is shown of one prompt; known with its first output."""

    text: str = ""
    tokens: tuple[str, ...] = ()
    positions: tuple[PositionLogprobs | None, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class _Answers:
    """The choices of a call as they grow. `offsets` counts characters already worded."""

    call: CompletionCall
    prompts: list[_PromptPart | None] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    begun: set[int] = field(default_factory=set)
    offsets: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_prompts = len(self.call.requests)
        self.prompts = [None] * num_prompts
        self.usages = [Usage()] * num_prompts

    def add(self, prompt_index: int, output: RequestOutput) -> Iterator[CompletionChoice]:
        """Word the deltas of an output as pieces of choices, the echo before the first."""
        self.usages[prompt_index] = output.usage
        self.call.notes.note(prompt_index, output)
        if self.prompts[prompt_index] is None:
            self.prompts[prompt_index] = _read_prompt(
                self.call, self.call.requests[prompt_index].prompt, output
            )
        for delta in output.deltas:
            check_delta(delta)
            index = prompt_index * self.call.sampling.n + delta.index
            if index not in self.begun:
                self.begun.add(index)
                yield self._opening(index, self.prompts[prompt_index] or _PromptPart())
            yield self._piece(index, delta)

    def _opening(self, index: int, prompt: _PromptPart) -> CompletionChoice:
        call = self.call
        logprobs = None
        if call.echoes and call.sampling.logprobs is not None:
            positions = prompt.positions or (None,) * len(prompt.tokens)
            logprobs = self._logprobs(index, positions, prompt.tokens)
        return CompletionChoice(
            index,
            prompt.text if call.echoes else "",
            logprobs,
            prompt_token_ids=prompt.token_ids if call.form.shows_token_ids else UNSET,
            prompt_logprobs=(
                make_prompt_logprobs(prompt.positions) if call.shows_prompt_logprobs else UNSET
            ),
        )

    def _piece(self, index: int, delta: CompletionDelta) -> CompletionChoice:
        logprobs = None
        if self.call.sampling.logprobs is not None and delta.logprobs:
            texts = [position.chosen.token for position in delta.logprobs]
            logprobs = self._logprobs(index, delta.logprobs, texts)
        return CompletionChoice(
            index,
            delta.text,
            logprobs,
            delta.finish_reason,
            delta.stop_reason if delta.finish_reason is not None else UNSET,
            delta.token_ids if self.call.form.shows_token_ids else UNSET,
        )

    def _logprobs(
        self,
        index: int,
        positions: tuple[PositionLogprobs | None, ...],
        texts: list[str] | tuple[str, ...],
    ) -> CompletionLogprobs:
        offset = self.offsets.get(index, 0)
        self.offsets[index] = offset + sum(map(len, texts))
        return make_completion_logprobs(
            positions, texts, offset, self.call.form.shows_tokens_as_ids
        )


def _read_prompt(call: CompletionCall, given: Prompt | None, output: RequestOutput) -> _PromptPart:
    is_whole = call.requests[0].truncate_prompt_tokens is None
    text = given if isinstance(given, str) and is_whole else output.prompt_text
    if call.echoes and text is None:
        raise BackendError("The model did not give back the prompt that was to be echoed.")
    return _PromptPart(
        text or "",
        output.prompt_tokens or (),
        output.prompt_logprobs or (),
        output.prompt_token_ids or (),
    )


@asynccontextmanager
async def _open_batches(services: Services, call: CompletionCall) -> AsyncIterator[Batches]:
    with worded(call.wire_names):
        async with open_batches(services.backend, call.requests, services.config) as batches:
            yield batches


async def _complete(services: Services, call: CompletionCall) -> Completion:
    answers = _Answers(call)
    pieces: list[list[CompletionChoice]] = [[] for _ in range(_num_choices(call))]
    async with _open_batches(services, call) as batches:
        async for batch in batches:
            for prompt_index, output in batch:
                for piece in answers.add(prompt_index, output):
                    pieces[piece.index].append(piece)
    choices = [_join(index, parts) for index, parts in enumerate(pieces)]
    usage = make_usage(sum_usage(answers.usages))
    return _completion(call, choices, usage, call.receipt())


def _num_choices(call: CompletionCall) -> int:
    return len(call.requests) * call.sampling.n


def _join(index: int, pieces: list[CompletionChoice]) -> CompletionChoice:
    """Put the pieces of a choice together."""
    if not pieces or pieces[-1].finish_reason is None:
        raise unexplained_end()
    first, last = pieces[0], pieces[-1]
    parts = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    logprobs = CompletionLogprobs(
        [token for part in parts for token in part.tokens],
        [value for part in parts for value in part.token_logprobs],
        [top for part in parts for top in part.top_logprobs],
        [offset for part in parts for offset in part.text_offset],
    )
    token_ids: list[int] | UnsetType = UNSET
    if not isinstance(last.token_ids, UnsetType):
        token_ids = [
            token_id
            for piece in pieces
            if not isinstance(piece.token_ids, UnsetType)
            for token_id in piece.token_ids
        ]
    return CompletionChoice(
        index,
        "".join(piece.text for piece in pieces),
        logprobs if parts else None,
        last.finish_reason,
        last.stop_reason,
        token_ids,
        first.prompt_token_ids,
        first.prompt_logprobs,
    )


async def _stream(services: Services, call: CompletionCall) -> AsyncGenerator[bytes, None]:
    answers = _Answers(call)
    num_open = _num_choices(call)
    async with _open_batches(services, call) as batches:
        async for batch in batches:
            frames = [] if batch else [HEARTBEAT]
            for prompt_index, output in batch:
                for piece in answers.add(prompt_index, output):
                    num_open -= piece.finish_reason is not None
                    if _says_something(piece):
                        frames.append(frame(encode(_chunk(call, [piece], answers.usages))))
            if frames:
                yield b"".join(frames)
    if num_open:
        raise unexplained_end()
    if call.form.options.include_usage or call.form.shows_receipt:
        has_usage = call.form.options.include_usage
        usage = make_usage(sum_usage(answers.usages)) if has_usage else UNSET
        yield frame(encode(_completion(call, [], usage, call.receipt()))) + DONE
    else:
        yield DONE


def _says_something(piece: CompletionChoice) -> bool:
    has_extras = any(
        not isinstance(extra, UnsetType) and bool(extra)
        for extra in (piece.token_ids, piece.prompt_token_ids, piece.prompt_logprobs)
    )
    return bool(piece.text or piece.logprobs or piece.finish_reason or has_extras)


def _chunk(
    call: CompletionCall, choices: list[CompletionChoice], usages: list[Usage]
) -> Completion:
    if call.form.options.continuous_usage_stats:
        return _completion(call, choices, make_usage(sum_usage(usages)))
    return _completion(call, choices, None if call.form.options.include_usage else UNSET)


def _completion(
    call: CompletionCall,
    choices: list[CompletionChoice],
    usage: UsageBody | UnsetType | None,
    receipt: Receipt | UnsetType = UNSET,
) -> Completion:
    return Completion(
        id=call.form.id,
        created=call.form.created,
        model=call.form.model,
        choices=choices,
        system_fingerprint=call.form.fingerprint,
        usage=usage,
        receipt=receipt,
    )
