"""`headrace bench latency`, `throughput` and `serve`: one load, three ways to drive it.

In: flags. Out: tables or one JSON object on stdout, files where asked; progress and notes on
stderr. The engine in this process and a server behind a URL are measured by the same code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.bench.http_target import Api
from headrace.cli.bench_flags import Asked, EngineFlags, Output, ServerFlags, Shape
from headrace.cli.bench_run import run_mode
from headrace.cli.generation import (
    DraftAcceptanceOption,
    DraftModelOption,
    IsaOption,
    KVCacheDtypeOption,
    MemoryOption,
    SpeculativeOption,
    ThreadsOption,
)
from headrace.cli.settings import ConfigOption

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Model to measure. Default: qwen2.5-coder:0.5b; with --url the one served there.",
        show_default=False,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Measure this OpenAI-compatible server instead of an engine in this process. "
        "Without a path, /v1 is added.",
        show_default=False,
    ),
]
ApiOption = Annotated[Api, typer.Option("--api", help="Route of the server that is asked.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="Environment variable that holds the server's API key.",
        show_default=False,
    ),
]
BodyOption = Annotated[
    str | None,
    typer.Option(
        "--body",
        metavar="JSON",
        help='Fields to add to each request body, such as {"top_p": 0.9}; null removes one.',
        show_default=False,
    ),
]
RepeatOption = Annotated[
    bool,
    typer.Option(
        "--repeat-prompts",
        help="Send a server the very prompts of --seed; its cache may hold them from another run.",
    ),
]
RequestsOption = Annotated[
    int,
    typer.Option("--num-requests", metavar="N", min=1, help="Requests to make, at most 100000."),
]
PromptTokensOption = Annotated[
    str | None,
    typer.Option(
        "--prompt-tokens",
        metavar="LENGTHS",
        help="Prompt lengths: 128, 32..512 (even), log:32..2048 (even over doublings).",
        show_default=False,
    ),
]
OutputTokensOption = Annotated[
    str | None,
    typer.Option(
        "--output-tokens",
        metavar="LENGTHS",
        help="Answer lengths, written alike.",
        show_default=False,
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help='JSONL file of {"prompt": ...} or {"messages": ...}, used instead of random prompts.',
        show_default=False,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        help="Same seed, same arrivals, lengths and prompts (a server's, but for a few words).",
    ),
]
EosOption = Annotated[
    bool,
    typer.Option(
        "--ignore-eos/--no-ignore-eos",
        help="Ask for answers of full length, or let the model end them.",
    ),
]
TimeoutOption = Annotated[
    str,
    typer.Option("--timeout", metavar="TIME", help="A request that takes longer has failed."),
]
SloOption = Annotated[
    str | None,
    typer.Option(
        "--slo",
        metavar="LIMITS",
        help="Objective for goodput, such as ttft=500ms,tpot=50ms; also itl (longest gap), e2e.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SaveJsonOption = Annotated[
    Path | None,
    typer.Option("--save-json", metavar="FILE", help="Write the JSON here.", show_default=False),
]
SaveHtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--save-html", metavar="FILE", help="Write a page with plots here.", show_default=False
    ),
]

SERVE_URL = "http://127.0.0.1:8000/v1"


def latency(
    model: ModelArgument = None,
    num_requests: RequestsOption = 10,
    prompt_tokens: PromptTokensOption = None,
    output_tokens: OutputTokensOption = None,
    prompts: PromptsOption = None,
    seed: SeedOption = 0,
    ignore_eos: EosOption = True,
    timeout: TimeoutOption = "300s",
    slo: SloOption = None,
    url: UrlOption = None,
    api: ApiOption = "chat",
    api_key_env: KeyOption = None,
    body: BodyOption = None,
    repeat_prompts: RepeatOption = False,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    speculative: SpeculativeOption = None,
    draft_model: DraftModelOption = None,
    draft_acceptance: DraftAcceptanceOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
    save_json: SaveJsonOption = None,
    save_html: SaveHtmlOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Measure one stream: the next request begins when the last one ended.

    Prompts have 128 tokens and answers 64 unless told otherwise.
    """
    run_mode(
        model,
        Shape("latency", "128", "64", concurrency=1),
        Asked(num_requests, prompt_tokens, output_tokens, prompts, seed, ignore_eos, timeout, slo),
        ServerFlags(url, api, api_key_env, body, repeat_prompts),
        EngineFlags(
            threads,
            isa,
            kv_cache_dtype,
            speculative,
            memory,
            config_file,
            draft_model,
            draft_acceptance,
        ),
        Output(as_json, save_json, save_html),
    )


def throughput(
    model: ModelArgument = None,
    num_requests: RequestsOption = 128,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, help="Requests at once.")
    ] = 32,
    prompt_tokens: PromptTokensOption = None,
    output_tokens: OutputTokensOption = None,
    prompts: PromptsOption = None,
    seed: SeedOption = 0,
    ignore_eos: EosOption = True,
    timeout: TimeoutOption = "300s",
    slo: SloOption = None,
    url: UrlOption = None,
    api: ApiOption = "chat",
    api_key_env: KeyOption = None,
    body: BodyOption = None,
    repeat_prompts: RepeatOption = False,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    speculative: SpeculativeOption = None,
    draft_model: DraftModelOption = None,
    draft_acceptance: DraftAcceptanceOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
    save_json: SaveJsonOption = None,
    save_html: SaveHtmlOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Measure many streams: N requests run at once, and the next begins when one ends.

    Prompts have 128 tokens and answers 64 unless told otherwise.
    """
    run_mode(
        model,
        Shape("throughput", "128", "64", concurrency=concurrency),
        Asked(num_requests, prompt_tokens, output_tokens, prompts, seed, ignore_eos, timeout, slo),
        ServerFlags(url, api, api_key_env, body, repeat_prompts),
        EngineFlags(
            threads,
            isa,
            kv_cache_dtype,
            speculative,
            memory,
            config_file,
            draft_model,
            draft_acceptance,
        ),
        Output(as_json, save_json, save_html),
    )


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model to ask for. Default: the one served there.",
            show_default=False,
        ),
    ] = None,
    num_requests: RequestsOption = 100,
    rate: Annotated[
        float, typer.Option("--rate", metavar="R", help="Requests per second, on average.")
    ] = 1.0,
    prompt_tokens: PromptTokensOption = None,
    output_tokens: OutputTokensOption = None,
    prompts: PromptsOption = None,
    seed: SeedOption = 0,
    ignore_eos: EosOption = True,
    timeout: TimeoutOption = "300s",
    slo: SloOption = None,
    url: Annotated[
        str,
        typer.Option("--url", metavar="URL", help="The server. Without a path, /v1 is added."),
    ] = SERVE_URL,
    api: ApiOption = "chat",
    api_key_env: KeyOption = None,
    body: BodyOption = None,
    repeat_prompts: RepeatOption = False,
    as_json: JsonOption = False,
    save_json: SaveJsonOption = None,
    save_html: SaveHtmlOption = None,
) -> None:
    """Measure a server under open load: requests arrive by a Poisson process, whoever waits.

    Prompts have 32 to 512 tokens and answers 16 to 128, even over doublings, unless told otherwise.
    Latencies count from the arrival.
    """
    run_mode(
        model,
        Shape("serve", "log:32..512", "log:16..128", rate_per_s=rate),
        Asked(num_requests, prompt_tokens, output_tokens, prompts, seed, ignore_eos, timeout, slo),
        ServerFlags(url, api, api_key_env, body, repeat_prompts),
        EngineFlags(),
        Output(as_json, save_json, save_html),
    )
