"""FakeBackend: a Backend that answers from a script, and remembers what was asked and closed.

Prompt text counts one token per UTF-8 byte. Gates and errors can be put at any point, so that tests
decide when a request waits, fails or is left.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from headrace.core.backend import Health, ModelInfo, ModelText, TokenizerInfo
from headrace.core.errors import ContextTooLong, InvalidParameter
from headrace.core.output import (
    CompletionDelta,
    FinishReason,
    PositionLogprobs,
    RequestOutput,
    RequestTimes,
    TokenLogprob,
)
from headrace.core.receipt import ResolvedRequest
from headrace.core.request import GenerateRequest
from headrace.core.usage import Usage

DEFAULT_PIECES = ("Hello", ",", " wörld", "", " 🌊!")


@dataclass(frozen=True)
class Piece:
    """What one step gives every answer of a request."""

    text: str
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass
class FakeBackend:
    """Scripted answers.

    Fields:
        pieces: texts of the steps, the same for each answer; `max_tokens` cuts them.
        per_answer: makes the text of a step differ by answer: (answer index, text) -> text.
        reworded: what a delta becomes on its way out: (delta, step index) -> delta.
        admission: awaited before a request is admitted; raise or wait in it.
        before_step: awaited before each step: (request, step index).
        resolved_max_tokens: what receipts say of the length, in place of the one asked for.
        vector: what pooled requests get.
        closed: ids of the requests whose stream was closed before its end.
    """

    pieces: Sequence[str] = DEFAULT_PIECES
    finish_reason: FinishReason = "stop"
    stop_reason: str | int | None = None
    info: ModelInfo = field(
        default_factory=lambda: ModelInfo(
            "tiny",
            1000,
            1_700_000_000,
            "org/tiny",
            template_variables=frozenset({"style"}),
            vector_size=2,
        )
    )
    per_answer: Callable[[int, str], str] | None = None
    reworded: Callable[[CompletionDelta, int], CompletionDelta] | None = None
    admission: Callable[[GenerateRequest], Any] | None = None
    before_step: Callable[[GenerateRequest, int], Any] | None = None
    num_cached_tokens: int = 0
    resolved_max_tokens: int | None = None
    guesses: Usage = field(default_factory=Usage)
    vector: tuple[float, ...] | None = (3.0, 4.0)
    model_text: ModelText = field(default_factory=lambda: FakeText())
    state: Health = field(default_factory=lambda: Health("ready"))
    requests: list[GenerateRequest] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    num_running: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = 60.0) -> bool:
        """Let a test's thread wait for what happens in the server's."""
        with self.changed:
            return self.changed.wait_for(is_so, timeout_s)

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def models(self) -> Sequence[ModelInfo]:
        return (self.info,)

    def health(self) -> Health:
        return self.state

    def text(self, model: str) -> ModelText:
        return self.model_text

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        self.requests.append(request)
        num_tokens = len(prompt_token_ids(request))
        if num_tokens >= self.info.max_model_len:
            param = "messages" if request.prompt is None else "prompt"
            raise ContextTooLong(
                num_tokens, self.info.max_model_len, request.sampling.max_tokens, param
            )
        self.notify()
        if self.admission is not None:
            await self.admission(request)
        self.num_running += 1
        self.notify()
        return FakeStream(self, request)

    async def steps(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        sampling = request.sampling
        limit = sampling.max_tokens
        if limit is None:
            limit = request.default_max_tokens or len(self.pieces)
        texts = self.pieces[:limit]
        is_cut = limit < len(self.pieces)
        prompt_ids = prompt_token_ids(request)
        if request.pooling is not None:
            delta = CompletionDelta(0, finish_reason="stop")
            yield RequestOutput(
                request.request_id, (delta,), Usage(len(prompt_ids)), True, vector=self.vector
            )
            return
        if not texts:
            ends = (CompletionDelta(i, finish_reason="length") for i in range(sampling.n))
            usage, seed = Usage(len(prompt_ids)), sampling.seed
            end = RequestOutput(request.request_id, tuple(ends), usage, True, seed=seed)
            yield self._with_prompt(end, request, prompt_ids)
        for step, text in enumerate(texts):
            if self.before_step is not None:
                await self.before_step(request, step)
            is_last = step == len(texts) - 1
            piece = Piece(text)
            if is_last:
                reason: FinishReason = "length" if is_cut else self.finish_reason
                piece = Piece(text, reason, None if is_cut else self.stop_reason)
            output = RequestOutput(
                request.request_id,
                tuple(self._delta(request, index, step, piece) for index in range(sampling.n)),
                replace(
                    self.guesses,
                    input_tokens=len(prompt_ids),
                    cached_input_tokens=self.num_cached_tokens,
                    output_tokens=(step + 1) * sampling.n,
                ),
                is_finished=is_last,
                times=RequestTimes(0.001, 0.002, 0.003, 0.0005, 0.0015) if is_last else None,
                resolved=ResolvedRequest(self.resolved_max_tokens or limit) if is_last else None,
                seed=sampling.seed,
            )
            yield self._with_prompt(output, request, prompt_ids) if step == 0 else output

    def _delta(
        self, request: GenerateRequest, index: int, step: int, piece: Piece
    ) -> CompletionDelta:
        text = piece.text if self.per_answer is None else self.per_answer(index, piece.text)
        num_top = request.sampling.logprobs
        delta = CompletionDelta(
            index,
            text,
            (1000 + step,),
            None if num_top is None else (position(1000 + step, text, num_top),),
            piece.finish_reason,
            piece.stop_reason,
        )
        return delta if self.reworded is None else self.reworded(delta, step)

    def _with_prompt(
        self, output: RequestOutput, request: GenerateRequest, prompt_ids: tuple[int, ...]
    ) -> RequestOutput:
        num_top = request.sampling.prompt_logprobs
        texts = tuple(map(text_of, prompt_ids))
        scored = (None, *(position(i, text_of(i), num_top or 0) for i in prompt_ids[1:]))
        return replace(
            output,
            prompt_token_ids=prompt_ids,
            prompt_logprobs=None if num_top is None else scored,
            prompt_text="".join(texts) if request.return_prompt_text else None,
            prompt_tokens=texts if request.return_prompt_text else None,
        )


def prompt_token_ids(request: GenerateRequest) -> tuple[int, ...]:
    """One token per UTF-8 byte; token ids as they are."""
    prompt = request.prompt
    if isinstance(prompt, tuple):
        return prompt
    if prompt is None:
        prompt = "\n".join(message.content or "" for message in request.messages or ())
    return tuple(prompt.encode())


def text_of(token_id: int) -> str:
    """The character of that number, where there is one below the surrogates."""
    return chr(token_id) if token_id < 0xD800 else "?"


def position(token_id: int, text: str, num_top: int) -> PositionLogprobs:
    """The chosen token at -0.5 and alternatives at -1, -2, ..."""
    chosen = TokenLogprob(token_id, text, text.encode(), -0.5, 1)
    others = (
        TokenLogprob(token_id + rank, f"~{rank}", f"~{rank}".encode(), -1.0 * rank, rank + 1)
        for rank in range(1, num_top)
    )
    return PositionLogprobs(chosen, (chosen, *others) if num_top else ())


class FakeText:
    """A token per byte."""

    async def encode(self, request: GenerateRequest) -> tuple[int, ...]:
        return prompt_token_ids(request)

    async def decode(self, token_ids: Sequence[int]) -> str:
        for token_id in token_ids:
            if not 0 <= token_id < 256:
                raise InvalidParameter("token_ids", token_id, "0 to 255")
        return bytes(token_ids).decode("utf-8", "replace")

    async def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(chr(token_id) for token_id in token_ids)

    def info(self) -> TokenizerInfo:
        return TokenizerInfo(256, {"bos_token": "<s>", "eos_token": "</s>"}, (2,), True, None)


class FakeStream(AsyncGenerator[RequestOutput, None]):
    """A stream that notices being closed even before its first step."""

    def __init__(self, backend: FakeBackend, request: GenerateRequest) -> None:
        self._backend, self._request = backend, request
        self._steps = backend.steps(request)
        self._is_over = False

    async def asend(self, value: None) -> RequestOutput:
        try:
            return await self._steps.asend(value)
        except StopAsyncIteration:
            self._end(was_closed=False)
            raise
        except asyncio.CancelledError:
            self._end(was_closed=True)
            raise
        except Exception:
            self._end(was_closed=False)
            raise

    async def athrow(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        self._end(was_closed=True)
        return await self._steps.athrow(kind)

    async def aclose(self) -> None:
        self._end(was_closed=True)
        await self._steps.aclose()

    def _end(self, was_closed: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._backend.num_running -= 1
        if was_closed:
            self._backend.closed.append(self._request.request_id)
        self._backend.notify()
