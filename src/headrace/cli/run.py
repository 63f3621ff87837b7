"""`headrace run`: one prompt, one answer, streamed to stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from headrace.cli.generation import (
    DEFAULT_MAX_TOKENS,
    Answer,
    IsaOption,
    KVCacheDtypeOption,
    MaxTokensOption,
    MemoryOption,
    ModelOption,
    NoPullOption,
    SeedOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    check_max_tokens,
    find_model,
    make_request,
    print_text,
    read_answer,
    summarize,
)
from headrace.cli.prompt import read_prompt
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.backend import Backend
from headrace.core.config import DEFAULT_MODEL
from headrace.core.errors import ConfigError
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.launch.backends import LocalEngine, open_engine


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is asked, and how the answer is shown."""

    prompt: str
    system: str | None = None
    is_raw: bool = False
    is_quiet: bool = False
    is_json: bool = False


def run(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to ask. Text that is piped in, or read with < FILE, goes below it. `-`, or "
            "no PROMPT: stdin is the whole prompt.",
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    seed: SeedOption = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End the answer here; may be repeated."),
    ] = None,
    system: SystemOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")
    ] = False,
    memory: MemoryOption = None,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    no_pull: NoPullOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end instead of text.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Answer a prompt.

    Tokens go to stdout as they come, a one-line summary to stderr. A model of the catalogue that is
    not on this machine is fetched first.
    """
    check_max_tokens(max_tokens)
    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop[0] if stop and len(stop) == 1 else tuple(stop or ()),  # as given, for errors
    )
    text = read_prompt(prompt, sys.stdin, _ignore if quiet else _note)
    options = RunOptions(text, system, raw, quiet, as_json)
    flags = {
        "engine.memory_bytes": memory,
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.kv_cache_dtype": kv_cache_dtype,
    }
    if quiet:
        flags["server.log_level"] = "error"
    config = load_config(config_file, flags)
    find_model(config, model, may_pull=not no_pull)
    engine = open_engine(model, config, is_brief=True)
    asyncio.run(_run(engine, sampling, DEFAULT_MAX_TOKENS, options))


async def _run(
    engine: LocalEngine, sampling: SamplingParams, default_max_tokens: int, options: RunOptions
) -> None:
    await engine.start()
    try:
        has_template = engine.chat_template is not None
        request = plan_request(
            engine, sampling, default_max_tokens, options, has_template=has_template
        )
        await show_answer(engine, request, options)
    finally:
        await engine.stop()


def plan_request(
    backend: Backend,
    sampling: SamplingParams,
    default_max_tokens: int,
    options: RunOptions,
    *,
    has_template: bool,
) -> GenerateRequest:
    """Ask through the chat template, or plainly for `--raw` and models without one.

    Raises: ConfigError for a system message without a template.
    """
    if not options.is_raw and has_template:
        system = [] if options.system is None else [Message("system", options.system)]
        messages = [*system, Message("user", options.prompt)]
        return make_request(
            backend, sampling, messages=messages, default_max_tokens=default_max_tokens
        )
    if options.system is not None:
        why = "--raw was given" if options.is_raw else "this model has no chat template"
        raise ConfigError("--system", options.system, "nothing here", f"Leave it out: {why}.")
    if not options.is_raw and not options.is_quiet:
        note = "note: this model has no chat template; it continues the prompt as plain text"
        typer.echo(note, err=True)
    return make_request(
        backend, sampling, prompt=options.prompt, default_max_tokens=default_max_tokens
    )


async def show_answer(backend: Backend, request: GenerateRequest, options: RunOptions) -> None:
    """Print the answer and its summary, also of what has come when it is interrupted."""
    answer = Answer()
    try:
        await read_answer(backend, request, answer, _ignore if options.is_json else print_text)
    except asyncio.CancelledError:
        if not options.is_quiet:
            typer.echo(f"\n{summarize(answer)}, interrupted", err=True)
        raise
    finally:
        if not options.is_json and answer.text and not answer.text.endswith("\n"):
            print_text("\n")
    if options.is_json:
        typer.echo(json.dumps(describe(answer, request.model), ensure_ascii=False))
    if not options.is_quiet:
        typer.echo(summarize(answer), err=True)


def describe(answer: Answer, model: str) -> dict[str, object]:
    """The answer as a JSON object. Units: seconds."""
    usage = answer.usage
    return {
        "model": model,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "ttft_s": answer.ttft_s,
        "total_s": answer.total_s,
        "tokens_per_s": answer.tokens_per_s,
    }


def _note(text: str) -> None:
    """A word for the person who waits."""
    typer.echo(text, err=True)


def _ignore(text: str) -> None:
    """Text that is shown at the end, or not at all."""
