"""What `run` and `chat` share: options, opening a model, and reading an answer as it comes.

In: flags, a model's name, messages. Out: text on stdout, a summary on stderr. Imports no server.
"""

from __future__ import annotations

import importlib
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated

import typer

from headrace.core.backend import Backend
from headrace.core.config import Config
from headrace.core.errors import ConfigError, ModelNotFound
from headrace.core.message import Message
from headrace.core.output import FinishReason
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.usage import Usage
from headrace.hub.model_store import ModelStore

DEFAULT_MAX_TOKENS = 1024

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Name from `headrace models`, GGUF file or Hugging Face folder.",
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        help="Longest answer, in tokens; what the context cannot hold is refused. "
        f"Default: {DEFAULT_MAX_TOKENS}, or what the context leaves.",
        show_default=False,
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature", "-t", metavar="0..2", help="0 takes the likeliest token, more is varied."
    ),
]
TopPOption = Annotated[
    float, typer.Option("--top-p", metavar="0..1", help="Keep the tokens that hold this share.")
]
TopKOption = Annotated[
    int, typer.Option("--top-k", metavar="N", help="Keep the N likeliest tokens; 0 keeps all.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Same seed, same answer.", show_default=False),
]
SystemOption = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="System message.", show_default=False),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory for weights, KV cache and scratch, such as 2GiB. Default: from what is free.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads of the kernels. Default: one per core.",
        show_default=False,
    ),
]
IsaOption = Annotated[
    str | None,
    typer.Option(
        "--isa",
        metavar="NAME",
        help="Highest instruction set: generic, avx2, avx512, amx. Default: the CPU's best.",
        show_default=False,
    ),
]
KVCacheDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--kv-cache-dtype",
        metavar="TYPE",
        help="How keys and values are stored: auto, bf16, or int8, which holds more tokens in the "
        "same memory. Default: auto, which is bf16.",
        show_default=False,
    ),
]
NoPullOption = Annotated[
    bool, typer.Option("--no-pull", help="Fail when the model is not on this machine.")
]


@dataclass(slots=True)
class Answer:
    """An answer and how it went. Units: seconds; `ttft_s` and `total_s` from the request on."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason | None = None
    ttft_s: float | None = None
    total_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Speed after the first token."""
        if self.ttft_s is None or self.usage.output_tokens < 2 or self.total_s <= self.ttft_s:
            return None
        return (self.usage.output_tokens - 1) / (self.total_s - self.ttft_s)


def check_max_tokens(max_tokens: int | None) -> None:
    """Raises: ConfigError."""
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError("--max-tokens", max_tokens, "1 or more")


def find_model(config: Config, model: str, *, may_pull: bool) -> None:
    """See that the model is on this machine, fetching a named one if allowed.

    Raises: ModelNotFound, ModelSourceError, DiskFull, ModelFileError.
    """
    store = ModelStore(config.hub)
    try:
        store.resolve(model)
    except ModelNotFound:
        if not may_pull or store.catalogue.find(model) is None:
            raise
        # Progress bars cost start-up time that a model on this machine does not need.
        importlib.import_module("headrace.cli.progress").pull_model(store, model)


def make_request(
    backend: Backend,
    sampling: SamplingParams,
    *,
    prompt: str | None = None,
    messages: Sequence[Message] | None = None,
    default_max_tokens: int | None = None,
) -> GenerateRequest:
    """One request to the backend's first model."""
    return GenerateRequest(
        request_id=f"cli-{uuid.uuid4().hex[:12]}",
        model=backend.models()[0].name,
        prompt=prompt,
        messages=None if messages is None else tuple(messages),
        add_special_tokens=messages is None,
        sampling=sampling,
        default_max_tokens=default_max_tokens,
    )


async def read_answer(
    backend: Backend, request: GenerateRequest, answer: Answer, show: Callable[[str], None]
) -> None:
    """Run a request and show its text as it comes.

    Mutates: answer, which holds what has come so far when this is cancelled.
    Raises: RequestError, CapacityError, BackendError.
    """
    begin_s = time.perf_counter()
    stream = await backend.generate(request)
    async with aclosing(stream):
        async for output in stream:
            now_s = time.perf_counter() - begin_s
            if answer.ttft_s is None and output.usage.output_tokens:
                answer.ttft_s = now_s
            answer.usage, answer.total_s = output.usage, now_s
            for delta in output.deltas:
                answer.text += delta.text
                answer.finish_reason = delta.finish_reason or answer.finish_reason
                if delta.text:
                    show(delta.text)


def print_text(text: str) -> None:
    """Show a piece of an answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def summarize(answer: Answer) -> str:
    """One line: tokens, time to the first token, speed."""
    usage = answer.usage
    cached = f" ({usage.cached_input_tokens} cached)" if usage.cached_input_tokens else ""
    parts = [f"{usage.input_tokens} prompt tokens{cached}", f"{usage.output_tokens} generated"]
    if answer.ttft_s is not None:
        parts.append(f"first token after {answer.ttft_s:.2f} s")
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:.1f} tokens/s")
    if answer.finish_reason == "length":
        parts.append("cut at the length limit")
    return ", ".join(parts)
