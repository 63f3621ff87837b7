"""From checked flags to results: opens what is measured, runs the load, shows the report.

In: the records of `bench_flags`. Out: what `cli.bench_load` promises: tables or JSON on stdout,
files where asked, progress and notes on stderr.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from headrace.bench.engine_target import EngineTarget, TokenPrompts
from headrace.bench.html_page import render_page
from headrace.bench.http_target import HttpTarget, list_models
from headrace.bench.load_report import LoadSettings
from headrace.bench.load_table import (
    LATENCY_HEADINGS,
    fact_rows,
    latency_rows,
    notes,
    title_of,
)
from headrace.bench.outcome import RequestFailed
from headrace.bench.run_load import LoadPlan, run_load
from headrace.bench.word_prompts import FRESH_WORDS, WordPrompts, calibrate, warm_up
from headrace.bench.workload import Ask, FilePrompt, PromptMaker, read_prompts
from headrace.cli.bench_flags import (
    Asked,
    EngineFlags,
    Output,
    ServerFlags,
    Shape,
    check_engine_only,
    check_output,
    check_prompts,
    check_server_only,
    make_settings,
    read_body,
    read_key,
)
from headrace.cli.bench_progress import load_progress
from headrace.cli.errors import EXIT_FAILED
from headrace.cli.settings import load_config
from headrace.cli.tables import open_console
from headrace.client.endpoint import Endpoint, parse_endpoint
from headrace.config.machine import detect_machine
from headrace.core.config import DEFAULT_MODEL
from headrace.core.errors import BackendError, ConfigError
from headrace.core.units import format_seconds
from headrace.launch.backends import open_engine

WARM_UP_TOKENS = 4
_HINTS = {
    "connect": "Start the server, or give its address with --url.",
    "http_400": "A strict server may refuse ignore_eos (--no-ignore-eos) or another field "
    "(--body '{\"field\": null}'); a model without a chat template needs --api completions.",
    "http_401": "Name the variable that holds the key with --api-key-env.",
    "http_404": "See that --url ends where the API begins, mostly in /v1, and that MODEL is right.",
}
_HINTS_BY_CODE = {
    "model_not_supported": "A load is made of answers, so it needs a language model; `headrace "
    "embed --model NAME --file FILE` says how many texts a second an encoder here takes.",
}
FilePrompts = tuple[FilePrompt, ...]


def run_mode(
    model: str | None,
    shape: Shape,
    asked: Asked,
    server: ServerFlags,
    engine: EngineFlags,
    output: Output,
) -> None:
    """Run a load and show what it found. Exits 1 when no request finished.

    Raises: ConfigError, BackendError, and what opening an engine raises.
    """
    settings = make_settings(shape, asked)
    prompts = None if asked.prompts is None else tuple(read_prompts(asked.prompts))
    check_output(output)
    if server.url is None:
        check_engine_only(server)
        report = asyncio.run(_run_engine(model or DEFAULT_MODEL, engine, settings, prompts))
    else:
        check_server_only(engine)
        load_config()  # for the log
        endpoint = parse_endpoint(server.url)
        report = asyncio.run(_run_server(model, endpoint, server, settings, prompts))
    show(report, output)
    if not report["requests"]["finished"]:
        raise typer.Exit(EXIT_FAILED)


async def _run_engine(
    model: str, flags: EngineFlags, settings: LoadSettings, prompts: FilePrompts | None
) -> dict[str, Any]:
    settled = {
        "engine.num_threads": flags.threads,
        "engine.isa": flags.isa,
        "engine.kv_cache_dtype": flags.kv_cache_dtype,
        "engine.speculative": flags.speculative,
        "engine.draft_model": flags.draft_model,
        "engine.draft_acceptance": flags.draft_acceptance,
        "engine.memory_bytes": flags.memory,
    }
    engine = open_engine(model, load_config(flags.config, settled))
    await engine.start()
    try:
        target = EngineTarget(engine, ignore_eos=settings.ignore_eos)
        made = TokenPrompts(engine.vocab_size, settings.seed)
        with _first_answer(model, settings.timeout_s):
            async with asyncio.timeout(settings.timeout_s):
                await warm_up(target, Ask(-1, made.make(64), WARM_UP_TOKENS))
        described = {"kind": "engine", "model": engine.models()[0].name, **engine.environment}
        return await _run(LoadPlan(settings, target, described, prompts or made))
    finally:
        await engine.stop()


async def _run_server(
    model: str | None,
    endpoint: Endpoint,
    flags: ServerFlags,
    settings: LoadSettings,
    prompts: FilePrompts | None,
) -> dict[str, Any]:
    check_prompts(flags, prompts)
    extra_body, api_key = read_body(flags.body), read_key(flags.api_key_env)
    with _first_answer(endpoint.url, settings.timeout_s):
        async with asyncio.timeout(settings.timeout_s):
            name = model or await _only_model(endpoint, api_key)
            target = HttpTarget(endpoint, name, flags.api, settings.ignore_eos, extra_body, api_key)
            try:
                maker, known = await _prompts_for(target, flags, settings, prompts)
            except RequestFailed as error:
                if error.kind == "http_404":
                    await _check_model(name, endpoint, api_key)
                raise
    described = {
        "kind": "http",
        "url": endpoint.url,
        "model": name,
        "api": flags.api,
        "extra_body": extra_body or None,
        **known,
    }
    return await _run(LoadPlan(settings, target, described, maker))


async def _prompts_for(
    target: HttpTarget, flags: ServerFlags, settings: LoadSettings, prompts: FilePrompts | None
) -> tuple[PromptMaker | FilePrompts, dict[str, float]]:
    """Where prompts come from, and what a word costs at this server. Warms it up on the way.

    Raises: RequestFailed.
    """
    if prompts is not None:
        await warm_up(target, Ask(-1, "Hello", WARM_UP_TOKENS))
        return prompts, {}
    found = await calibrate(target, settings.seed)
    known = {
        "tokens_per_word": round(found.tokens_per_word, 4),
        "overhead_tokens": round(found.overhead_tokens, 4),
        "fresh_words": 0 if flags.repeat_prompts else FRESH_WORDS,
    }
    fresh_seed = None if flags.repeat_prompts else secrets.randbits(64)
    return WordPrompts(settings.seed, found, fresh_seed), known


async def _only_model(endpoint: Endpoint, api_key: str | None) -> str:
    """The model of a server that has one.

    Raises: ConfigError, RequestFailed.
    """
    names = await list_models(endpoint, api_key)
    if len(names) != 1:
        raise _not_served(None, names, endpoint)
    return names[0]


async def _check_model(name: str, endpoint: Endpoint, api_key: str | None) -> None:
    """Raises: ConfigError for a model that a server, which says what it has, does not have."""
    try:
        names = await list_models(endpoint, api_key)
    except RequestFailed:
        return
    if name not in names:
        raise _not_served(name, names, endpoint)


def _not_served(name: str | None, names: list[str], endpoint: Endpoint) -> ConfigError:
    shown = ", ".join(names[:20]) or "none"
    return ConfigError("MODEL", name, f"one of those served at {endpoint.url}: {shown}")


@contextmanager
def _first_answer(where: str, timeout_s: float) -> Iterator[None]:
    """A load whose first request fails does not begin.

    Raises: BackendError.
    """
    try:
        yield
    except RequestFailed as error:
        hint = _HINTS_BY_CODE.get(error.code or "") or _HINTS.get(error.kind, "")
        text = f"{where} failed the request before the load ({error.kind}): {error.message}"
        raise BackendError(f"{text.rstrip('.')}. {hint}".rstrip()) from None
    except TimeoutError:
        raise BackendError(
            f"{where} did not answer the request before the load within "
            f"{format_seconds(timeout_s)} (--timeout)."
        ) from None


async def _run(plan: LoadPlan) -> dict[str, Any]:
    with load_progress(plan.settings.num_requests) as view:
        try:
            return await run_load(plan, view.show, detect_machine().cpu_model)
        except asyncio.CancelledError:
            # Its long requests would be missing, so what is left would look better than it is.
            typer.echo("\ninterrupted; a load that is cut short is not reported", err=True)
            raise


def show(report: Mapping[str, Any], output: Output) -> None:
    """Print the report, write the files that were asked for, and say what to beware of."""
    if output.as_json:
        typer.echo(json.dumps(report))
    else:
        _print(report)
    for note in notes(report):
        typer.echo(f"note: {note}", err=True)
    if output.save_json is not None:
        output.save_json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if output.save_html is not None:
        output.save_html.write_text(render_page(report), encoding="utf-8")


def _print(report: Mapping[str, Any]) -> None:
    console = open_console()
    console.print(Text(title_of(report)))
    table = Table()
    for heading in LATENCY_HEADINGS:
        table.add_column(heading, justify="left" if heading == "ms" else "right")
    for row in latency_rows(report):
        table.add_row(*row)
    console.print(table)
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in fact_rows(report):
        # A server's words may hold brackets, which are markup elsewhere.
        facts.add_row(name, Text(value))
    console.print(facts)
