"""`headrace bench roof`: how fast a model runs here, beside what the machine could do."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from headrace.bench.report import BenchReport, Round, Settings, run_bench, table_rows
from headrace.cli.generation import IsaOption, KVCacheDtypeOption
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.config import DEFAULT_MODEL
from headrace.launch.backends import open_engine
from headrace.launch.local_engine import LocalEngine


def roof(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model to measure.")
    ] = DEFAULT_MODEL,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds; engine and roof alternate.")
    ] = 3,
    prompt_tokens: Annotated[
        int, typer.Option(metavar="N", min=16, help="Prompt of the prefill run.")
    ] = 512,
    decode_tokens: Annotated[
        int, typer.Option(metavar="N", min=2, help="Answer of the single stream.")
    ] = 64,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests that run at once.")
    ] = 32,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads of the kernels.")
    ] = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Limit, such as 2GiB.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: ConfigOption = None,
) -> None:
    """Measure TTFT, TPOT, tokens/s, GB/s and TOP/s of a model against this machine's roof."""
    flags = {
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.kv_cache_dtype": kv_cache_dtype,
        "engine.memory_bytes": memory,
    }
    settings = Settings(
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        concurrency=concurrency,
        rounds=rounds,
    )
    engine = open_engine(model, load_config(config, flags))
    report = asyncio.run(_run(engine, settings))
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        _print(report)


async def _run(engine: LocalEngine, settings: Settings) -> BenchReport:
    await engine.start()
    try:
        return await run_bench(
            engine,
            engine.work,
            engine.vocab_size,
            engine.probe_roof,
            settings,
            on_round=_show_round,
            environment=engine.environment,
        )
    finally:
        await engine.stop()


def _show_round(number: int, found: Round) -> None:
    typer.echo(
        f"round {number + 1}: prefill {found.prefill_tokens_per_s:.0f} tokens/s, "
        f"decode {found.decode_tokens_per_s:.1f} tokens/s "
        f"({found.decode_share_of_bandwidth:.0%} of {found.roof.read_bytes_per_s / 1e9:.1f} GB/s), "
        f"concurrent {found.concurrent_output_tokens_per_s:.0f} tokens/s",
        err=True,
    )


def _print(report: BenchReport) -> None:
    table = Table(title=f"{report.model}, median of {report.settings.rounds} rounds")
    for heading in ("", "median", "lowest to highest", "share of the roof"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in table_rows(report):
        table.add_row(*row)
    Console().print(table)
