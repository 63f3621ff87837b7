"""LLM: generate and chat in a script. A thread runs the asynchronous engine; calls wait for it.

In: prompts, messages, sampling parameters. Out: answers, or streams of deltas.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar, overload

from headrace.config.resolve import resolve_config
from headrace.core.config import Config
from headrace.core.errors import BackendError, ConfigError, InvalidParameter, RequestError
from headrace.core.frozen import frozen
from headrace.core.message import Message
from headrace.core.output import FinishReason, PositionLogprobs, RequestOutput, RequestTimes
from headrace.core.request import GenerateRequest, Pooling, SamplingParams
from headrace.core.usage import Usage
from headrace.launch.backends import open_engine

T = TypeVar("T")
Prompt = str | Sequence[int]
Chat = Sequence[Message | Mapping[str, Any]]

_PROMPT = "a text, or a list of token ids"
_MESSAGE = "a Message, or a mapping with role and content"


@frozen
class Completion:
    """One answer. `logprobs` has an entry per token when they were asked for."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    logprobs: tuple[PositionLogprobs, ...] | None = None


@frozen
class Generation:
    """A prompt's answers, its usage over all of them, and its times."""

    completions: tuple[Completion, ...]
    usage: Usage
    prompt_token_ids: tuple[int, ...]
    prompt_logprobs: tuple[PositionLogprobs | None, ...] | None
    times: RequestTimes | None

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.completions[0].text


class LLM:
    """A model, loaded and ready.

    `model` is a name of the catalogue, a GGUF file or a Hugging Face folder; a named model is
    pulled when it is not local. `options` are fields of EngineConfig (`num_threads=2`,
    `memory_bytes=2 * 2**30`, `max_model_len=4096`); `config` stands for
    all of them. Use it in a `with`, or call `close`.

    Raises: ModelNotFound, ModelSourceError, ModelFileError, OutOfMemory, ConfigError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        progress: Callable[[str, float], None] | None = None,
        config: Config | None = None,
        **options: object,
    ) -> None:
        self.config = config_for(model, config, options)
        self.engine = open_engine(os.fspath(model), self.config, progress=progress, may_pull=True)
        self._ids = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace", daemon=True)
        self._thread.start()
        self._slots = asyncio.Semaphore(2 * self.config.engine.max_num_seqs)
        self._wait(self.engine.start)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prediction: str | None = None,
        lora: str | None = None,
    ) -> list[Generation]:
        """Answer prompts, given as text or token ids; all run together.

        One SamplingParams serves all prompts, or give one per prompt. `prediction` is what the
        answers may be like: where it is right they come faster, and it never changes them. `lora`
        is the name of a loaded adapter.
        Raises: RequestError, CapacityError, BackendError.
        """
        batch = as_prompts(prompts)
        params = as_params(sampling, len(batch))
        requests = [
            self._request(params=each, prompt=prompt, prediction=prediction, lora=lora)
            for prompt, each in zip(batch, params, strict=True)
        ]
        return self._wait(lambda: self._run_all(requests))

    @overload
    def chat(
        self,
        messages: Chat,
        sampling: SamplingParams | None = None,
        *,
        prediction: str | None = None,
        lora: str | None = None,
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Sequence[Chat],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prediction: str | None = None,
        lora: str | None = None,
    ) -> list[Generation]: ...

    def chat(
        self,
        messages: Chat | Sequence[Chat],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prediction: str | None = None,
        lora: str | None = None,
    ) -> Generation | list[Generation]:
        """Answer a conversation through the model's chat template, or several, which run together.

        Messages are Message records or mappings with `role` and `content`. `sampling`,
        `prediction` and `lora`: as in `generate`.
        Raises: RequestError, CapacityError, BackendError.
        """
        is_many = (
            isinstance(messages, list | tuple)
            and len(messages) > 0
            and isinstance(messages[0], list | tuple)
        )
        if is_many:
            chats = [as_messages(chat, f"messages[{n}]") for n, chat in enumerate(messages)]
        else:
            chats = [as_messages(messages)]
        requests = [
            self._request(params=each, messages=chat, prediction=prediction, lora=lora)
            for chat, each in zip(chats, as_params(sampling, len(chats)), strict=True)
        ]
        answers = self._wait(lambda: self._run_all(requests))
        return answers if is_many else answers[0]

    def load_adapter(self, name: str, path: str | os.PathLike[str]) -> None:
        """Load a LoRA adapter, a PEFT folder or a GGUF file, to be asked for by `name`.

        It takes of `adapter_memory_bytes`, which is 0 unless it was given.
        Raises: InvalidParameter, ModelFileError, UnsupportedFormat, OutOfMemory.
        """
        self._wait(lambda: self.engine.load_adapter(name, os.path.abspath(path)))

    def unload_adapter(self, name: str) -> None:
        """Give an adapter's memory back, once its requests have ended. Raises: ModelNotFound."""
        self._wait(lambda: self.engine.unload_adapter(name))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(info.name for info in self.engine.models() if info.parent is not None)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling: Pooling = "last",
        *,
        lora: str | None = None,
    ) -> list[tuple[float, ...]]:
        """Hidden states of prompts as vectors, not normalized: the last one, or the mean of all.

        Raises: RequestError, CapacityError, BackendError.
        """
        params = SamplingParams(max_tokens=1)
        requests = [
            self._request(params=params, prompt=prompt, pooling=pooling, lora=lora)
            for prompt in as_prompts(prompts)
        ]
        return self._wait(lambda: self._run_each(requests, self._embed))

    def stream(
        self,
        prompt: Prompt | Chat,
        sampling: SamplingParams | None = None,
        *,
        lora: str | None = None,
    ) -> Iterator[RequestOutput]:
        """Answer a prompt (text or token ids) or a conversation piece by piece.

        Leaving the loop aborts the request. Raises: RequestError, CapacityError, BackendError.
        """
        params = as_params(sampling, 1)[0]
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Message | Mapping):
            request = self._request(params=params, messages=as_messages(prompt), lora=lora)
        else:
            text_or_ids = as_prompt(prompt, "prompt")
            request = self._request(params=params, prompt=text_or_ids, lora=lora)
        outputs: AsyncGenerator[RequestOutput, None] = self._wait(
            lambda: self.engine.generate(request)
        )
        try:
            while True:
                output: RequestOutput | None = self._wait(lambda: anext(outputs, None))
                if output is None:
                    return
                yield output
        finally:
            if not self._loop.is_closed():
                self._wait(outputs.aclose)

    def close(self) -> None:
        """Stop the engine and free its memory. Calling it twice is harmless."""
        if self._loop.is_closed():
            return
        self._wait(self.engine.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _embed(self, request: GenerateRequest) -> tuple[float, ...]:
        async with self._slots:
            outputs = [output async for output in await self.engine.generate(request)]
        vector = outputs[-1].vector
        if vector is None:
            raise BackendError("The model gave no vector.")
        return vector

    def _request(
        self, params: SamplingParams, lora: str | None = None, **prompt: Any
    ) -> GenerateRequest:
        return GenerateRequest(
            request_id=f"llm-{next(self._ids)}",
            model=self.engine.model_info.name if lora is None else lora,
            sampling=params,
            **prompt,
        )

    async def _run_all(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        return await self._run_each(requests, self._run)

    async def _run_each(
        self,
        requests: Sequence[GenerateRequest],
        run: Callable[[GenerateRequest], Coroutine[Any, Any, T]],
    ) -> list[T]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(request)) for request in requests]
        return [task.result() for task in tasks]

    async def _run(self, request: GenerateRequest) -> Generation:
        async with self._slots:
            outputs = await self.engine.generate(request)
            return collect([output async for output in outputs])

    def _wait(self, work: Callable[[], Awaitable[T]]) -> T:
        # The work starts in the loop's thread, so a closed LLM leaves nothing unawaited.
        if self._loop.is_closed():
            raise BackendError("This LLM was closed. Open a new one, or call close later.")
        future: Future[T] = asyncio.run_coroutine_threadsafe(_run_work(work), self._loop)
        try:
            return future.result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        except BaseException:
            future.cancel()
            raise


async def _run_work(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def collect(outputs: Sequence[RequestOutput]) -> Generation:
    """Join the deltas of a finished stream."""
    answers: dict[int, Completion] = {}
    for delta in (delta for output in outputs for delta in output.deltas):
        known = answers.get(delta.index) or Completion(delta.index, "", (), None)
        logprobs = known.logprobs
        if delta.logprobs is not None:
            logprobs = (logprobs or ()) + delta.logprobs
        answers[delta.index] = replace(
            known,
            text=known.text + delta.text,
            token_ids=known.token_ids + delta.token_ids,
            finish_reason=delta.finish_reason or known.finish_reason,
            stop_reason=delta.stop_reason if delta.finish_reason else known.stop_reason,
            logprobs=logprobs,
        )
    first, last = outputs[0], outputs[-1]
    return Generation(
        completions=tuple(answers[index] for index in sorted(answers)),
        usage=last.usage,
        prompt_token_ids=first.prompt_token_ids or (),
        prompt_logprobs=next((o.prompt_logprobs for o in outputs if o.prompt_logprobs), None),
        times=last.times,
    )


def config_for(model: Any, config: Config | None, options: Mapping[str, object]) -> Config:
    """The settings that hold for a model: those given, else the machine's with `options`.

    Raises: ConfigError, also for what is no model's name.
    """
    if not isinstance(model, str | os.PathLike):
        raise ConfigError("model", model, "a model's name, or the path of a file or folder")
    flags = {f"engine.{name}": value for name, value in options.items()}
    return config or resolve_config(flags=flags, environ=os.environ, config_file=None)


def as_prompts(prompts: Any) -> list[str | tuple[int, ...]]:
    """One prompt or several, as a list. Raises: InvalidParameter."""
    is_list = isinstance(prompts, Sequence) and not isinstance(prompts, str | bytes)
    if is_list and len(prompts) == 0:
        raise InvalidParameter("prompts", prompts, f"{_PROMPT}, or a list of these")
    if not is_list or isinstance(prompts[0], int):
        return [as_prompt(prompts, "prompts", ", or a list of these")]
    return [as_prompt(prompt, f"prompts[{index}]") for index, prompt in enumerate(prompts)]


def as_prompt(prompt: Any, name: str, or_else: str = "") -> str | tuple[int, ...]:
    """One prompt. Raises: InvalidParameter."""
    if isinstance(prompt, str):
        return prompt
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, bytes)
    if not is_list or not all(isinstance(token_id, int) for token_id in prompt):
        raise InvalidParameter(name, prompt, f"{_PROMPT}{or_else}")
    return tuple(prompt)


def as_params(sampling: Any, count: int) -> list[SamplingParams]:
    """Sampling parameters per prompt. Raises: RequestError."""
    if sampling is None or isinstance(sampling, SamplingParams):
        return [sampling or SamplingParams()] * count
    records = list(sampling) if isinstance(sampling, Sequence) else [sampling]
    if not all(isinstance(record, SamplingParams) for record in records):
        hint = "Write SamplingParams(max_tokens=3), not a mapping."
        raise InvalidParameter("sampling", sampling, "a SamplingParams, or one per prompt", hint)
    if len(records) != count:
        raise RequestError(
            f"sampling is a list of {len(records)} for {count} prompts; allowed: one SamplingParams"
            " for all, or a list with one per prompt.",
            "sampling",
            "invalid_value",
        )
    return records


def as_messages(messages: Any, field: str = "messages") -> tuple[Message, ...]:
    """Messages from records or mappings. Raises: InvalidParameter."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidParameter(field, messages, f"a list, each {_MESSAGE}")
    result = []
    for index, message in enumerate(messages):
        if isinstance(message, Message):
            result.append(message)
            continue
        try:
            result.append(Message(**message))
        except TypeError as error:
            raise InvalidParameter(f"{field}[{index}]", message, _MESSAGE) from error
    return tuple(result)
