"""`headrace embed`: texts to vectors, from the command line, a file or a pipe."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headrace.cli.embed_lines import InputFormat, read_inputs
from headrace.cli.generation import (
    IsaOption,
    MemoryOption,
    ModelOption,
    NoPullOption,
    ThreadsOption,
    find_model,
)
from headrace.cli.interrupts import Interruptible
from headrace.cli.output_file import check_output_file
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.config import DEFAULT_ENCODER
from headrace.core.errors import ConfigError

OutputFormat = Literal["jsonl", "json", "npy"]


def embed(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts. Without any, and without --file: stdin."),
    ] = None,
    model: ModelOption = DEFAULT_ENCODER,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="A text on each line.", exists=False),
    ] = None,
    input_format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="Of the file or stdin: lines, or jsonl, JSON on each line."
        ),
    ] = "lines",
    field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With jsonl: the field that holds the text. Default: text.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: stdout."),
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl, a vector on each line; json; or npy of numpy.",
        ),
    ] = "jsonl",
    prompt_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of the model's prompts, to go before every text."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="mean, cls or last. Default: what the model says."),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Vectors of length 1. Default: what the model says.",
            show_default=False,
        ),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the first N numbers.")
    ] = None,
    truncate: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Keep N tokens of a longer text; -1 as many as fit. Default: it is an error.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Matrices in f32, bf16 or q8_0 (8 bits). Default: auto."),
    ] = None,
    memory: MemoryOption = None,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    no_pull: NoPullOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Make a vector of each text.

    Vectors come in the order of the texts. A text that is longer than the model reads is an error
    unless --truncate says what to do.
    """
    checked_format: InputFormat = _choose("--input-format", input_format, ("lines", "jsonl"))
    if field is not None and checked_format != "jsonl":
        raise ConfigError("--field", field, "nothing without --input-format jsonl")
    if texts and checked_format != "lines":
        hint = "Arguments are texts as they are; give JSON by --file or stdin."
        raise ConfigError("--input-format", input_format, "lines beside TEXT", hint)
    format_out: OutputFormat = _choose("--format", output_format, ("jsonl", "json", "npy"))
    if format_out == "npy" and output is None and sys.stdout.isatty():
        raise ConfigError("--format", "npy", "jsonl or json on a terminal", "Give --output FILE.")
    if texts and file is not None:
        raise ConfigError("--file", str(file), "nothing beside TEXT")
    if file is not None and output is not None and _is_same(file, output):
        raise ConfigError("--output", str(output), "another file than --file")
    check_output_file("--output", output)
    flags = {
        "engine.memory_bytes": memory,
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.encoder_dtype": dtype,
    }
    if quiet:
        flags["server.log_level"] = "error"
    config = load_config(config_file, flags)
    inputs = read_inputs(texts, file, sys.stdin, checked_format, field or "text")
    # What is wrong with the first one is told before a model is fetched and loaded.
    inputs = itertools.chain([next(inputs)], inputs)
    find_model(config, model, may_pull=not no_pull)
    # Numpy and kernels, once it is known that there is something to do.
    embedder_class: Any = importlib.import_module("headrace.embedder").Embedder
    run: Any = importlib.import_module("headrace.cli.embed_run")
    options = run.EmbedOptions(
        format=format_out,
        quiet=quiet,
        arguments={
            "prompt_name": prompt_name,
            "pooling": pooling,
            "is_normalized": normalize,
            "dimensions": dimensions,
            "truncate_prompt_tokens": truncate,
        },
    )
    with embedder_class(model, config=config) as embedder, Interruptible():
        run.embed_all(embedder, inputs, output, options)


def _is_same(file: Path, output: Path) -> bool:
    """Whether writing one would empty the other."""
    return file.exists() and output.exists() and file.samefile(output)


def _choose(flag: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(flag, value, ", ".join(allowed))
    return value
