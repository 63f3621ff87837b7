"""`headrace run`: one prompt, one answer, streamed to stdout."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from headrace.cli.generation import (
    DEFAULT_MAX_TOKENS,
    CanaryOption,
    DraftAcceptanceOption,
    DraftModelOption,
    IsaOption,
    KVCacheDtypeOption,
    LoraOption,
    MaxTokensOption,
    MemoryOption,
    ModelOption,
    NoPullOption,
    QuantizationOption,
    SeedOption,
    SpeculativeOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    check_max_tokens,
    find_model,
)
from headrace.cli.prompt import check_text, read_prompt
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.config import DEFAULT_MODEL
from headrace.core.errors import ConfigError
from headrace.core.request import SamplingParams
from headrace.launch.backends import open_engine
from headrace.weights.adapter_files import check_adapters


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
    quantization: QuantizationOption = None,
    canary: CanaryOption = None,
    speculative: SpeculativeOption = None,
    draft_model: DraftModelOption = None,
    draft_acceptance: DraftAcceptanceOption = None,
    lora: LoraOption = None,
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
    if "" in (stop or ()):
        raise ConfigError("--stop", "", "a text that is not empty")
    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop[0] if stop and len(stop) == 1 else tuple(stop or ()),  # as given, for errors
    )
    for flag, given in (("--system", system), *(("--stop", each) for each in stop or ())):
        check_text(flag, given or "")
    text = read_prompt(prompt, sys.stdin, _ignore if quiet else _note)
    flags = {
        "engine.memory_bytes": memory,
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.kv_cache_dtype": kv_cache_dtype,
        "engine.quantization": quantization,
        "engine.canary": canary,
        "engine.speculative": speculative,
        "engine.draft_model": draft_model,
        "engine.draft_acceptance": draft_acceptance,
        "engine.adapters": tuple(lora) if lora else None,
    }
    if quiet:
        flags["server.log_level"] = "error"
    config = load_config(config_file, flags)
    check_adapters(config.engine)
    find_model(config, model, may_pull=not no_pull)
    engine = open_engine(model, config, is_brief=True)
    # Loaded while C++ packs the weights.
    run_answer = importlib.import_module("headrace.cli.run_answer")
    options = run_answer.RunOptions(text, system, raw, quiet, as_json)
    run_answer.answer_prompt(engine, sampling, DEFAULT_MAX_TOKENS, options)


def _note(text: str) -> None:
    """A word for the person who waits."""
    typer.echo(text, err=True)


def _ignore(text: str) -> None:
    """Text that is shown at the end, or not at all."""
