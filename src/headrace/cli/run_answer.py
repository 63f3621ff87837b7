"""The answer of `headrace run`: asked through the chat template or plainly, shown as it comes."""

from __future__ import annotations

import asyncio
import json

import typer

from headrace.cli.answer import Answer, make_request, print_text, read_answer, summarize
from headrace.cli.generation import CONTINUED_MAX_TOKENS
from headrace.cli.interrupts import Interruptible
from headrace.core.backend import Backend
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.launch.local_engine import LocalEngine


@frozen
class RunOptions:
    """What is asked, and how the answer is shown."""

    prompt: str
    system: str | None = None
    is_raw: bool = False
    is_quiet: bool = False
    is_json: bool = False


def answer_prompt(
    engine: LocalEngine, sampling: SamplingParams, default_max_tokens: int, options: RunOptions
) -> None:
    """Start the engine, answer, stop it. Raises: ConfigError, RequestError, BackendError."""
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            with Interruptible():
                runner.run(_answer(engine, sampling, default_max_tokens, options))
        finally:
            runner.run(engine.stop())


async def _answer(
    engine: LocalEngine, sampling: SamplingParams, default_max_tokens: int, options: RunOptions
) -> None:
    has_template = engine.chat_template is not None
    request = plan_request(engine, sampling, default_max_tokens, options, has_template=has_template)
    await show_answer(engine, request, options)


def plan_request(
    backend: Backend,
    sampling: SamplingParams,
    default_max_tokens: int,
    options: RunOptions,
    *,
    has_template: bool,
) -> GenerateRequest:
    """Ask through the chat template, or plainly for `--raw` and models without one.

    A model without one gets a shorter default: it does not know where an answer ends.
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
    if not has_template:
        default_max_tokens = min(default_max_tokens, CONTINUED_MAX_TOKENS)
    if not options.is_raw and not options.is_quiet:
        length = f", for at most {default_max_tokens} tokens without --max-tokens"
        typer.echo(
            "note: this model has no chat template: it does not answer, it continues the prompt as "
            f"plain text{'' if sampling.max_tokens else length}",
            err=True,
        )
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


def _ignore(text: str) -> None:
    """Text that is shown at the end."""
