"""What `run`, `chat` and `serve` share: options of a model, and finding it.

In: flags, a model's name. Out: a model on this machine. Imports no server, and nothing of what an
answer needs: `answer.py` is loaded while the model's weights are packed.
"""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from headrace.core.config import Config
from headrace.core.engine_config import MAX_CONTEXT_TOKENS
from headrace.core.errors import ConfigError, ModelNotFound
from headrace.hub.model_store import ModelStore

DEFAULT_MAX_TOKENS = 1024
CONTINUED_MAX_TOKENS = 128
"""Of a model without a chat template: it does not end by itself."""

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
        f"Default: {DEFAULT_MAX_TOKENS}, or what the context leaves; {CONTINUED_MAX_TOKENS} of a "
        "model without a chat template.",
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
        help="Highest instruction set: generic, avx2, avx512, avx512bf16, amx. "
        "Default: the CPU's best.",
        show_default=False,
    ),
]
KVCacheDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--kv-cache-dtype",
        metavar="TYPE",
        help="How keys and values are stored: auto, bf16, or int8, which holds more tokens in the "
        "same memory; fp8 is for GPUs. Default: auto, which is bf16.",
        show_default=False,
    ),
]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        "--quantization",
        metavar="TYPE",
        help="How float weights are rounded as they are loaded: none, or fp8, for GPUs. "
        "Default: none.",
        show_default=False,
    ),
]
CanaryOption = Annotated[
    str | None,
    typer.Option(
        "--canary",
        metavar="WHAT",
        help="When a model says other things of a short text than its file stores: warn, refuse, "
        "or off, which does not look. Files that store nothing are not asked. Default: warn.",
        show_default=False,
    ),
]
SpeculativeOption = Annotated[
    str | None,
    typer.Option(
        "--speculative",
        metavar="HOW",
        help="Guess tokens and compute several in one step, with the same answers: prompt-lookup "
        "guesses from what the text has had before, draft-model by a small model, both in this "
        "order, off never. Default: auto, which is both with a draft model, and without one does "
        "it for requests that bring a prediction.",
        show_default=False,
    ),
]
DraftModelOption = Annotated[
    str | None,
    typer.Option(
        "--draft-model",
        metavar="NAME",
        help="Small model with the same vocabulary that guesses what the large one will say.",
        show_default=False,
    ),
]
LookupPastOption = Annotated[
    int | None,
    typer.Option(
        "--lookup-past-tokens",
        metavar="N",
        help="Look guesses up also in so many tokens of answers that have ended, each request in "
        "those of its own tenant; with --speculative prompt-lookup or both. Default: 0.",
        show_default=False,
    ),
]
DraftAcceptanceOption = Annotated[
    str | None,
    typer.Option(
        "--draft-acceptance",
        metavar="HOW",
        help="When a draft model's guess of a drawn token is kept: same-noise (the default) "
        "changes no answer; rejection keeps more of them, with the same distribution, but a "
        "request without a seed cannot be repeated then.",
        show_default=False,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME=PATH",
        help="LoRA adapter to load: a PEFT folder or a GGUF file, and the name it goes by; may be "
        "repeated. `run` and `chat` answer with the first.",
        show_default=False,
    ),
]
NoPullOption = Annotated[
    bool, typer.Option("--no-pull", help="Fail when the model is not on this machine.")
]


def check_max_tokens(max_tokens: int | None) -> None:
    """Raises: ConfigError."""
    if max_tokens is not None and not 1 <= max_tokens <= MAX_CONTEXT_TOKENS:
        allowed = "1 or more" if max_tokens < 1 else f"at most {MAX_CONTEXT_TOKENS}"
        raise ConfigError("--max-tokens", max_tokens, allowed)


def find_model(config: Config, model: str, *, may_pull: bool) -> None:
    """See that the model, and its draft model, are on this machine, fetching named ones if allowed.

    Raises: ModelNotFound, ModelSourceError, DiskFull, ModelFileError.
    """
    for name in missing_models(config, model, may_pull=may_pull):
        # Progress bars cost start-up time that a model on this machine does not need.
        progress = importlib.import_module("headrace.cli.progress")
        progress.pull_model(ModelStore(config.hub), name)


def missing_models(config: Config, model: str, *, may_pull: bool) -> list[str]:
    """Of the model and its draft model those to be fetched.

    Raises: ModelNotFound where that is not allowed or nobody has it, ModelFileError.
    """
    store = ModelStore(config.hub)
    draft = config.engine.wanted_draft_model
    missing = []
    for name in (model,) if draft is None else (model, draft):
        try:
            store.resolve(name)
        except ModelNotFound:
            if not may_pull or store.catalogue.find(name) is None:
                raise
            missing.append(name)
    return missing
